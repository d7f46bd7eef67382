"""Items in scripts without blanks are found in their documents, and documents about the same things stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.data.decontaminate.stopwords import stop_words

MakeDocuments = Callable[..., Artifact]

# An item, a short one, and a text without either.
ITEMS = {
    "zh": (
        "小明家的果园里有十四棵苹果树，每棵树结了三十个苹果。他把其中一半送给邻居，剩下的装进每箱二十个的箱子，一共需要多少个箱子？",
        "世界上最长的河流叫什么名字？",
        "果园在山坡上，秋天的时候苹果熟了，全家人一起去采摘。邻居也来帮忙，大家把苹果装进箱子，然后用马车送到城里的市场去卖。",
    ),
    "ja": (
        "太郎の店では平日に一日四十個のパンを売り、土曜日にはその二倍を売る。日曜日が休みのとき、四週間で全部でいくつのパンを売るか答えなさい。",
        "日本で一番高い山の名前は何ですか。",
        "町の小さな店では毎朝早くからパンを焼いている。平日は静かだが、土曜日になると遠くからも客が来て、昼前には売り切れてしまう。",
    ),
    "th": (
        "ร้านของสมชายขายขนมปังวันละสี่สิบก้อนในวันธรรมดา และขายสองเท่าในวันเสาร์ ถ้าร้านปิดวันอาทิตย์ ในสี่สัปดาห์ร้านจะขายขนมปังได้ทั้งหมดกี่ก้อน",
        "ภูเขาที่สูงที่สุดในประเทศไทยชื่ออะไร",
        "ร้านเล็ก ๆ ในเมืองอบขนมปังตั้งแต่เช้ามืดทุกวัน วันธรรมดาเงียบมากแต่พอถึงวันเสาร์ลูกค้าจะมาจากที่ไกล ๆ และขนมปังก็หมดก่อนเที่ยง",
    ),
    "hi": (
        "रमेश की दुकान सोमवार से शुक्रवार तक हर दिन चालीस रोटियाँ बेचती है और शनिवार को उससे दुगुनी। "
        "रविवार को दुकान बंद रहती है तो चार सप्ताह में कुल कितनी रोटियाँ बिकेंगी?",
        "भारत की सबसे लंबी नदी कौन सी है?",
        "शहर की छोटी दुकान में सुबह से ही रोटियाँ बनने लगती हैं। सप्ताह के दिनों में भीड़ कम होती है, "
        "पर शनिवार को दूर दूर से लोग आते हैं और दोपहर तक सब बिक जाता है।",
    ),
    "ar": (
        "يَبيعُ متجرُ أحمدَ أربعينَ رغيفًا في كلِّ يومٍ من أيامِ الأسبوع، ويبيعُ ضعفَ ذلك يومَ السبت، "
        "ويُغلقُ يومَ الأحد. كم رغيفًا يبيعُ المتجرُ في أربعةِ أسابيع؟",
        "ما هو أطولُ نهرٍ في قارةِ إفريقيا؟",
        "في المدينة متجر صغير يخبز الخبز كل صباح. في أيام الأسبوع يكون هادئا، "
        "أما يوم السبت فيأتي الناس من بعيد وينفد كل شيء قبل الظهر.",
    ),
}


@pytest.mark.parametrize("language", ITEMS)
def test_items_are_found_embedded_and_wrapped(
    session: Session, make_documents: MakeDocuments, tmp_path: Path, language: str
) -> None:
    item, short, clean = ITEMS[language]
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in (item, short)))
    half = next(at for at in range(len(item) // 2, len(item)) if item[at].isalpha() and item[at - 1].isalpha())
    documents = make_documents(
        [
            Document("clean", clean, "s"),
            Document("long", f"{clean}\n{item}\n{clean}", "s"),
            Document("wrapped", f"{clean}\n{item[:half]}\n  {item[half:]}\n{clean}", "s"),
            Document("short", f"{clean}\n\n{short}\n\n{clean}", "s"),
        ]
    )
    config = {"benchmarks": [f"{path}:question"]}
    artifact = run_stage(session, "data.decontaminate", config, {"documents": documents}).artifact
    assert [item.id for shard in document_shards(artifact) for item in read_documents(shard)] == ["clean"]


def test_stop_words_of_other_scripts_are_no_content() -> None:
    assert {"的".encode(), "और".encode(), "и".encode(), b"the"} <= stop_words()
    assert b"die" not in stop_words()
