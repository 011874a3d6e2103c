"""A labelled table of customer messages in English and Chinese, generated from a small grammar of our own: the demo's data.

Some messages name two matters, some are vague and some labels are wrong, so that no model reaches 100 %: a table that everything
solves would show nothing. The same rows and seed give the same bytes.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from zhixing.core.files import write_text
from zhixing.core.random import key

NOISE = 0.03  # share of labels that a hurried clerk got wrong
VAGUE = 0.04  # share of messages that hardly say what they are about
DOUBLE = 0.10  # share of messages that mention a second matter first and ask about their own

EN_OPENINGS = ("", "", "", "Hi, ", "Hello, ", "Good morning, ", "Hi there, ", "Excuse me, ", "Sorry to bother you, ", "Dear team, ")
EN_CLOSINGS = ("", "", "", " Thanks.", " Please help.", " Thank you!", " Can you check?", " I am waiting.", " I asked before.")
ZH_OPENINGS = ("", "", "", "你好，", "您好，", "请问一下，", "麻烦您，", "不好意思，", "客服在吗？", "亲，")
ZH_CLOSINGS = ("", "", "", "谢谢。", "麻烦尽快处理。", "拜托了！", "请帮我看看。", "在线等。", "我已经问过一次了。")

EN_THINGS = ("headphones", "kettle", "desk lamp", "winter coat", "keyboard", "backpack", "water bottle", "running shoes", "toaster", "tent")
ZH_THINGS = ("耳机", "电水壶", "台灯", "羽绒服", "键盘", "双肩包", "保温杯", "跑鞋", "面包机", "帐篷")
EN_TIMES = ("yesterday", "last week", "on Monday", "three days ago", "this morning", "two weeks ago", "on the 5th", "last night")
ZH_TIMES = ("昨天", "上周", "周一", "三天前", "今天早上", "半个月前", "五号", "昨晚")
EN_SUMS = ("12.50", "30", "48.90", "75", "110", "9.99", "64", "250")
ZH_SUMS = ("12.5元", "30块", "48.9元", "75元", "一百一十块", "9.9元", "64元", "250元")

EN = {
    "refund": (
        "I sent the {thing} back {time} and the money has not come back yet.",
        "When will I get my {sum} back for the {thing}?",
        "I would like a refund for the {thing} I returned {time}.",
        "You promised to pay back {sum} {time}, but nothing has reached my account.",
        "Only part of the price of the {thing} was paid back, {sum} is missing.",
        "The return of the {thing} was accepted {time}; how long does the money take?",
    ),
    "delivery": (
        "The {thing} was sent {time} and still is not here.",
        "Where is my parcel with the {thing}?",
        "The tracking page has not moved since {time}.",
        "The courier left the {thing} at a neighbour's door, but nobody there has it.",
        "How many days does it take until the {thing} arrives?",
        "My parcel is said to be delivered {time}, yet I never received the {thing}.",
    ),
    "login": (
        "I cannot sign in since {time}, it says the password is wrong.",
        "The code for signing in never arrives on my phone.",
        "My account is locked after I tried the password {time}.",
        "I forgot my password and the reset mail does not come.",
        "The app throws me out every time I sign in.",
        "I have a new phone number and cannot get into my account.",
    ),
    "payment": (
        "I was charged {sum} twice for the {thing}.",
        "My card was declined when I paid for the {thing} {time}.",
        "The payment of {sum} went through but the order still says unpaid.",
        "Can I pay for the {thing} in instalments?",
        "There is a charge of {sum} from {time} that I do not recognise.",
        "Which cards can I use to pay {sum}?",
    ),
    "quality": (
        "The {thing} that I got {time} is broken.",
        "The {thing} stopped working after two days.",
        "There is a long scratch on the {thing}.",
        "The {thing} smells strange and feels cheap.",
        "The colour of the {thing} is not at all like in the picture.",
        "A part of the {thing} is missing in the box.",
    ),
    "cancel": (
        "Please cancel my order of the {thing} from {time}.",
        "I ordered the {thing} by mistake, can I still stop it?",
        "I no longer need the {thing}, please do not send it.",
        "How do I cancel the order that I placed {time}?",
        "I ordered two by accident, please take one {thing} off the order.",
        "I want to call off my order of {sum} before it leaves.",
    ),
    "invoice": (
        "I need an invoice for the {thing}.",
        "The invoice from {time} has the wrong company name.",
        "Where can I download the bill for {sum}?",
        "Please send the invoice for the {thing} to another mail address.",
        "The amount on the invoice is {sum} and not what I paid.",
        "Our accounting asks for the tax number on the bill from {time}.",
    ),
    "discount": (
        "My coupon of {sum} does not work for the {thing}.",
        "The {thing} became cheaper {time}, can I get the difference?",
        "Is there a discount when I buy three of the {thing}?",
        "The promised {sum} off was not taken from the price.",
        "My coupon ran out {time}, can you extend it?",
        "When is the next sale for the {thing}?",
    ),
}
ZH = {
    "refund": (
        "{time}退回去的{thing}，钱到现在还没退给我。",
        "{thing}的{sum}什么时候能退回来？",
        "我{time}把{thing}寄回去了，想申请退款。",
        "你们{time}答应退{sum}，可是账户里一直没收到。",
        "{thing}只退了一部分，还差{sum}。",
        "{time}显示退货成功，退款要等多久？",
    ),
    "delivery": (
        "{thing}{time}就发货了，到现在还没到。",
        "我的{thing}到哪儿了？",
        "物流信息从{time}起就没更新过。",
        "快递说把{thing}放邻居家了，可邻居说没见到。",
        "{thing}大概几天能送到？",
        "显示{time}已签收，可我根本没收到{thing}。",
    ),
    "login": (
        "从{time}开始就登录不上，一直说密码错误。",
        "登录的验证码一直收不到。",
        "{time}多试了几次密码，账号被锁了。",
        "忘记密码了，重置邮件也没收到。",
        "每次一登录应用就闪退。",
        "我换了手机号，现在进不了账号。",
    ),
    "payment": (
        "买{thing}被扣了两次款，每次{sum}。",
        "{time}买{thing}付款时，银行卡一直被拒。",
        "{sum}已经付了，订单还显示未付款。",
        "{thing}可以分期付款吗？",
        "{time}有一笔{sum}的扣款，不是我操作的。",
        "付{sum}可以用哪些卡？",
    ),
    "quality": (
        "{time}收到的{thing}是坏的。",
        "{thing}用了两天就不能用了。",
        "{thing}上面有一道很长的划痕。",
        "{thing}有股怪味，做工也很差。",
        "{thing}的颜色和图片完全不一样。",
        "打开盒子发现{thing}少了一个配件。",
    ),
    "cancel": (
        "请帮我取消{time}下的{thing}订单。",
        "{thing}拍错了，还能取消吗？",
        "{thing}我不要了，请先别发货。",
        "{time}下的单怎么取消？",
        "不小心拍了两件，请帮我去掉一件{thing}。",
        "那笔{sum}的订单我想在发货前撤掉。",
    ),
    "invoice": (
        "买{thing}需要开一张发票。",
        "{time}开的发票，公司抬头写错了。",
        "{sum}的电子发票在哪里下载？",
        "{thing}的发票请发到另一个邮箱。",
        "发票上写的是{sum}，和我付的金额不一样。",
        "财务要求在{time}的发票上补税号。",
    ),
    "discount": (
        "{sum}的优惠券买{thing}用不了。",
        "{thing}{time}降价了，能补差价吗？",
        "{thing}一次买三件有优惠吗？",
        "说好的立减{sum}，结算时没有减。",
        "我的优惠券{time}过期了，可以延期吗？",
        "{thing}下次什么时候搞活动？",
    ),
}
LABELS = tuple(EN)
EN_VAGUE = ("There is a problem with my {thing}.", "Something went wrong {time}, please look into my order.", "What about the {sum}?")
ZH_VAGUE = ("我的{thing}有点问题。", "{time}的订单不太对，帮我查一下。", "那{sum}是怎么回事？")
EN_LINKS = ("Besides, ", "But what I really ask: ", "That is settled now. My question: ")
ZH_LINKS = ("另外，", "不过我主要想问：", "这个已经解决了。现在想问：")


def _pick(source: np.random.Generator, among: tuple[str, ...]) -> str:
    return among[int(source.integers(len(among)))]


def _message(source: np.random.Generator, label: str, chinese: bool) -> str:
    """Write one message about a label's matter."""
    matters, things, times, sums = (ZH, ZH_THINGS, ZH_TIMES, ZH_SUMS) if chinese else (EN, EN_THINGS, EN_TIMES, EN_SUMS)
    draw = source.random()
    core = _pick(source, matters[label])
    if draw < VAGUE:
        core = _pick(source, ZH_VAGUE if chinese else EN_VAGUE)
    elif draw < VAGUE + DOUBLE:
        other = _pick(source, matters[_pick(source, tuple(each for each in LABELS if each != label))])
        core = other + _pick(source, ZH_LINKS) + core if chinese else f"{other} {_join(_pick(source, EN_LINKS), core)}"
    core = core.format(thing=_pick(source, things), time=_pick(source, times), sum=_pick(source, sums))
    opening = _pick(source, ZH_OPENINGS if chinese else EN_OPENINGS)
    closing = _pick(source, ZH_CLOSINGS if chinese else EN_CLOSINGS)
    return (opening + core if chinese else _join(opening, core)) + closing


def _join(before: str, sentence: str) -> str:
    """Set an English sentence behind other words; after a comma it begins small."""
    small = before.endswith(", ") and not sentence.startswith("I ")
    return before + (sentence[0].lower() + sentence[1:] if small else sentence)


def write_table(path: str | Path, rows: int = 3000, seed: int = 0) -> int:
    """Write a CSV with the columns text and label, Chinese and English rows mixed, every text once; give the number of rows.

    rows  int   at most a few ten thousand: the grammar has no more to say
    """
    source = np.random.Generator(np.random.Philox(key(seed, "table")))
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["text", "label"])
    seen: set[str] = set()
    while len(seen) < rows:
        label = _pick(source, LABELS)
        text = _message(source, label, bool(source.random() < 0.5))
        if text in seen:
            continue
        seen.add(text)
        writer.writerow([text, _pick(source, LABELS) if source.random() < NOISE else label])
    write_text(path, table.getvalue())
    return rows
