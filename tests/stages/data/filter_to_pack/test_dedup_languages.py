"""Near duplicates in scripts without blanks are found by their words, and texts about the same things stay apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.data.dedup.signatures import distinct_ngrams

MakeDocuments = Callable[..., Artifact]

# Two texts of each language, and a change of one word of the first.
TEXTS = {
    "zh": (
        "春天到了，城外的小河开始涨水。孩子们放学以后都跑到河边去看鱼，老人坐在桥上晒太阳，谈论今年的收成。镇上的面包店每天早上六点开门，"
        "店主总是先把门前的石阶扫干净，再把刚出炉的面包摆到窗台上。到了中午，街上的人渐渐多起来，邮差骑着自行车从远处过来，把信交给每一家。",
        "邮差",
        "信使",
        "秋天到了，城外的小河水位很低。学生们放学以后都留在教室里做作业，老人坐在家里喝茶，谈论今年的雨水。镇上的茶馆每天早上六点开门，"
        "店主总是先把桌子擦干净，再把热水烧好。到了晚上，街上的人渐渐少下去，守夜人提着灯笼从远处走来，把每一家的门检查一遍。",
    ),
    "ja": (
        "駅前の小さな本屋は、毎朝八時に店を開ける。店主は七十歳を過ぎているが、今でも新しい本が届くと自分で箱を開けて棚に並べる。"
        "学校帰りの子どもたちは漫画を立ち読みし、近所の人は天気の話をしてから雑誌を一冊買って帰る。雨の日には客が少なく、店主は窓際の椅子に座って古い小説を読む。",
        "古い小説",
        "長い小説",
        "駅前の小さな花屋は、毎朝七時に店を開ける。店員は二十歳になったばかりで、花が届くと自分で水を替えて桶に並べる。"
        "仕事帰りの人たちは小さな花束を選び、近所の人は庭の話をしてから種を一袋買って帰る。晴れの日には客が多く、店員は店の前に立って通りを掃く。",
    ),
    "th": (
        "หมู่บ้านของเราตั้งอยู่ริมแม่น้ำสายใหญ่ ทุกเช้าชาวบ้านจะพายเรือออกไปหาปลาแล้วนำกลับมาขายที่ตลาด เด็ก ๆ เดินไปโรงเรียนตามทางดินเล็ก ๆ "
        "ที่มีต้นไม้ขึ้นทั้งสองข้าง เมื่อถึงฤดูฝนน้ำจะท่วมทางเดินและทุกคนต้องใช้เรือแทน ผู้เฒ่าผู้แก่มักจะนั่งเล่าเรื่องในอดีตให้หลานฟังใต้ถุนบ้านในตอนเย็น",
        "เด็ก ๆ เดินไปโรงเรียน",
        "เด็ก ๆ วิ่งไปโรงเรียน",
        "หมู่บ้านของเขาตั้งอยู่บนภูเขาสูง ทุกเย็นชาวบ้านจะเดินลงไปตักน้ำแล้วแบกกลับขึ้นมาที่บ้าน เด็ก ๆ เรียนหนังสืออยู่ที่วัดใกล้ป่าไผ่ "
        "เมื่อถึงฤดูหนาวหมอกจะปกคลุมทั่วหุบเขาและทุกคนต้องก่อไฟ พ่อค้าจากในเมืองมักจะนำผ้ามาแลกกับน้ำผึ้งป่าในตอนเช้า",
    ),
}


@pytest.mark.parametrize("language", TEXTS)
def test_near_duplicates_are_found_and_other_texts_stay(
    session: Session, make_documents: MakeDocuments, language: str
) -> None:
    text, word, changed, other = TEXTS[language]
    assert word in text
    shards = [[Document("one", text, "s"), Document("other", other, "s")]]
    shards.append([Document("near", text.replace(word, changed), "s"), Document("wrapped", _wrapped(text), "s")])
    documents = make_documents(*shards)
    artifact = run_stage(session, "data.dedup", {"exact_jaccard": True}, {"documents": documents}).artifact
    kept = {document.id for shard in document_shards(artifact) for document in read_documents(shard)}
    assert len(kept) == 2
    assert "other" in kept
    assert artifact.manifest.counts["dropped"] == {"near_duplicate": 2}


def test_an_ngram_is_of_words_not_of_clauses() -> None:
    text, _, _, other = TEXTS["th"]
    shared = set(distinct_ngrams(text, 5).tolist()) & set(distinct_ngrams(other, 5).tolist())
    assert len(distinct_ngrams(text, 5)) > 50
    assert not shared


def _wrapped(text: str) -> str:
    """Broken into lines of 40 characters, not before a mark."""
    lines, start = [], 0
    while start < len(text):
        end = min(len(text), start + 40)
        while end < len(text) and not (text[end].isalpha() and text[end - 1].isalpha()):
            end += 1
        lines.append(text[start:end])
        start = end
    return "\n".join(lines)
