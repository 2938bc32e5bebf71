"""Text of unknown encoding: read if only one encoding makes sense of it, else refused."""

# Letters and signs that look like others are what this module is about.
# ruff: noqa: RUF001

import random

import pytest

from layoutner.files.encodings import LARGEST_GUESSED, NotUnicode, decode, decode_unicode

RECEIPT = "TAN WOON YANN\nINVOICE NO：PEGIV-1030765\nTOTAL（RM）9.00\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_is_read_without_a_note(encoding: str) -> None:
    assert decode("Größe 合计\n".encode(encoding)) == ("Größe 合计\n", "")


@pytest.mark.parametrize(
    ("encoding", "text", "name"),
    [
        ("gb2312", RECEIPT, "GB2312"),  # full-width punctuation, which EUC-KR has at the same place
        ("gb2312", "收据\n合计：￥9.00\n日期：2018-12-25\n", "GB2312"),
        ("gb2312", "北京市海淀区中关村大街\n发票号码\n总计 9.00\n", "GB2312"),
        ("shift_jis", "領収書\n合計 ￥900\nありがとうございました\n", "Shift JIS"),
        ("big5", "統一發票\n總計：900元\n台北市信義區\n", "Big5"),
        ("cp1252", "Müller GmbH\nStraße 5\n80331 München\nGröße", "Windows-1252"),
        ("cp1252", "TOTAL £9.00\nCASH £10.00\n", "Windows-1252"),
        ("cp1252", "CAFÉ DE PARIS\nÉté à la crème, créée\nTVA 5 €\n", "Windows-1252"),
        ("cp1252", "Année", "Windows-1252"),  # and Windows-1250: the same text
        ("cp1252", "Bjørn Åse, Færøvej 5", "Windows-1252"),
        ("cp1252", "São João, nº 5, ação", "Windows-1252"),
        ("cp1252", "Café “Roma”, L’addition, 5×3 ", "Windows-1252"),
        ("cp1250", "Számla összege, fizetendő végösszeg\n", "Windows-1250"),
        ("cp1254", "Fatura, müşteri, teşekkürler, tutarı", "Windows-1254"),
        ("cp850", "Rechnung für Größe 5, München", "code page 850"),
        ("mac_roman", "Déjà payé à München", "Mac Roman"),
    ],
)
def test_the_only_encoding_that_makes_sense_is_taken_and_named(encoding: str, text: str, name: str) -> None:
    content = text.encode(encoding)
    first = next(at for at, byte in enumerate(content) if byte > 127)
    note = f"read as {name}: not UTF-8: byte 0x{content[first]:02X} at offset {first}"
    assert decode(content) == (text, note)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb2312", "合计"),  # the same bytes are Korean and Japanese words
        ("euc_kr", "영수증 합계 9,000원"),  # and Chinese ones
        ("euc_jp", "合計"),
        ("cp1252", "Mère"),  # è is č in Windows-1250, and Czech has that
        ("cp1252", "25°C"),  # ° and C are a character of Big5
        ("cp1251", "Итого: 500 руб"),
        ("cp1251", "Цена 5"),
        ("koi8_r", "Итого 500"),
        ("cp1253", "Σύνολο 500"),
        ("tis-620", "รวม ขอบคุณ"),
        ("shift_jis", "ﾃﾝﾎﾟ 500"),
        ("cp1252", "Ã© £º ¡ª"),  # decoded wrongly once before
    ],
)
def test_what_several_encodings_or_none_explain_is_not_decided(encoding: str, text: str) -> None:
    with pytest.raises(NotUnicode, match="not UTF-8: byte 0x"):
        decode(text.encode(encoding))


def test_damaged_utf_8_is_not_taken_for_another_encoding() -> None:
    text = "Größe für Mädchen".encode()
    for damaged in (text + b" caf\xe9 ", text[:8] + b"\xe9" + text[8:] + "ü".encode(), "合计总计"[:4].encode()[:-1]):
        with pytest.raises(NotUnicode):
            decode(damaged)
    with pytest.raises(NotUnicode, match="not UTF-16: byte 0x41 at offset 4"):
        decode("x".encode("utf-16") + b"A")


def test_a_byte_is_named_by_its_place_in_the_file() -> None:
    with pytest.raises(NotUnicode, match="^not UTF-8: byte 0xFF at offset 103$"):
        decode_unicode(b"abc\xff", 100)
    with pytest.raises(NotUnicode, match="^not UTF-8: byte 0xFF at offset 6$"):
        decode_unicode(b"\xef\xbb\xbfabc\xff")


def test_of_a_very_long_text_nothing_is_guessed() -> None:
    text = "café" + " total" * (LARGEST_GUESSED // 6 - 1)
    assert decode(text.encode("cp1252")).text == text
    with pytest.raises(NotUnicode):
        decode((text + " 10.00" * 2).encode("cp1252"))


@pytest.mark.parametrize(
    ("encoding", "words", "least"),
    [
        ("cp1252", "facture été à crème brûlée déjà reçu numéro prix élevé français hôtel payé", 0.5),
        ("cp1252", "rechnung straße münchen größe für stück menge fällig zurück überweisung", 0.5),
        ("cp1252", "año señor teléfono dirección número artículo más días", 0.5),
        ("cp1250", "számla összeg köszönjük vásárlás végösszeg fizetendő", 0.5),
        ("gb2312", "收据 合计 日期 总计 发票号码 北京市 海淀区 谢谢惠顾 数量 单价 金额", 0.1),
        ("big5", "統一發票 總計 台北市 信義區 謝謝 數量 單價 金額 電話", 0.5),
        ("shift_jis", "領収書 合計 ありがとう 東京都 電話 お釣り 現金 レシート 税込", 0.5),
        ("euc_jp", "領収書 合計 ありがとう 東京都 電話 お釣り 現金 レシート 税込", 0.0),
        ("euc_kr", "영수증 합계 서울특별시 강남구 감사합니다 전화 금액 수량", 0.0),
        ("cp1251", "итого сумма спасибо чек касса оплата руб", 0.0),
        ("cp1253", "σύνολο απόδειξη ευχαριστούμε ταμείο", 0.0),
        ("tis-620", "รวม ขอบคุณ ใบเสร็จ", 0.0),
        ("mac_roman", "facture été à crème brûlée déjà straße münchen", 0.1),
    ],
)
def test_no_short_receipt_is_read_wrongly(encoding: str, words: str, least: float) -> None:
    rng = random.Random(24)
    english = ["total", "cash", "tax", "invoice", "no", "12.50", "RM9.00", "date", "25/12/2018", "thank", "you", "qty"]
    right = 0
    for _ in range(300):
        text = [*rng.choices(words.split(), k=rng.randint(1, 6)), *rng.choices(english, k=rng.randint(0, 6))]
        rng.shuffle(text)
        case = rng.choice((str.lower, str.upper, str.capitalize))
        receipt = " ".join(map(case, text))
        try:
            read = decode(receipt.encode(encoding))
        except NotUnicode:
            continue
        except UnicodeEncodeError:  # a capital that the encoding lacks
            continue
        assert read.text == receipt
        right += 1
    assert right / 300 >= least
