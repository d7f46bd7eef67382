// The settings form: sampling fields of a request, and the API key of this tab.

const KEY = "longcat-api-key";
const form = document.getElementById("controls");
const keyField = document.getElementById("key");

keyField.value = sessionStorage.getItem(KEY) ?? "";
keyField.addEventListener("input", () => {
  if (apiKey()) sessionStorage.setItem(KEY, apiKey());
  else sessionStorage.removeItem(KEY);
});
form.addEventListener("submit", (event) => event.preventDefault());

export function apiKey() {
  return keyField.value.trim();
}

export function onKey(listener) {
  keyField.addEventListener("change", listener);
}

export function systemPrompt() {
  return form.elements.system.value;
}

// Numbers that the user has set; empty fields are left to the server. Throws an Error for an invalid one.
export function sampling() {
  const chosen = {};
  for (const name of ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"]) {
    const field = form.elements[name];
    if (!field.checkValidity()) {
      field.focus();
      throw new Error(`${name}: ${field.validationMessage}`);
    }
    if (field.value !== "") chosen[name] = Number(field.value);
  }
  return chosen;
}
