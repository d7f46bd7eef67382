// Two turns, streamed and not, a tool and a schema, by openai-js. Arguments: the address of the API, the folder of node_modules.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , baseURL, folder] = process.argv;
const OpenAI = createRequire(join(folder, "x.js"))("openai");
const version = JSON.parse(readFileSync(join(folder, "node_modules", "openai", "package.json"))).version;
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const model = "tiny";
const messages = [{ role: "user", content: "Hi" }];
const turns = [];
for (let turn = 0; turn < 2; turn++) {
  const answer = await client.chat.completions.create({ model, messages });
  messages.push(answer.choices[0].message, { role: "user", content: "More" });
  turns.push(answer.choices[0].message.content);
}
const streamed = [];
for (let turn = 0; turn < 2; turn++) {
  const message = await client.chat.completions.stream({ model, messages }).finalMessage();
  messages.push(message, { role: "user", content: "More" });
  streamed.push(message.content);
}
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", description: "The weather now.", parameters } }];
const asked = [{ role: "user", content: "Weather?" }];
const first = (await client.chat.completions.create({ model, messages: asked, tools })).choices[0].message;
const call = first.tool_calls[0];
asked.push(first, { role: "tool", tool_call_id: call.id, content: "rain" });
const after = (await client.chat.completions.create({ model, messages: asked, tools })).choices[0].message.content;
const schema = { type: "object", properties: { name: { type: "string" } }, required: ["name"], additionalProperties: false };
const response_format = { type: "json_schema", json_schema: { name: "city", schema, strict: true } };
const parsed = await client.chat.completions.parse({ model, messages: asked.slice(0, 1), response_format });
const city = parsed.choices[0].message.parsed.name;
const called = [call.function.name, JSON.parse(call.function.arguments)];
console.log(JSON.stringify({ turns, streamed, call: called, after, city, version }));
