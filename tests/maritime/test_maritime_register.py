"""A user's register: good ones in every encoding, and each fault with its line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftwork.errors import GraftError
from graftwork_maritime.scenario.identities import (
    EXERCISE_MIDS,
    check_ship,
    countries,
    mmsi_class,
)
from graftwork_maritime.scenario.model import Vessel
from graftwork_maritime.scenario.register import read_register

HEAD = "name,mmsi,call_sign,type\n"
GOOD = HEAD + "Märta  O'Hara!,265000001,SABC,Tanker\nLinda,,,\n"


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "register.csv"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_and_delimiters(tmp_path: Path, encoding: str, delimiter: str) -> None:
    file = written(tmp_path, GOOD.replace(",", delimiter), encoding)
    assert read_register(file) == (
        Vessel("Märta O Hara", "Tanker", "265000001", "SABC"),
        Vessel("Linda", "Other", None, None),
    )


def test_columns_in_any_order_and_more_of_them(tmp_path: Path) -> None:
    file = written(
        tmp_path, "Type,length,NAME,call_sign,mmsi\r\nTugboat,20,Anna,oz4b,219000001\r\n"
    )
    assert read_register(file) == (Vessel("Anna", "Tugboat", "219000001", "OZ4B"),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Anna,2650000,SABC,Tanker", "line 2: MMSI '2650000' has not nine digits.*as text"),
        ("Anna,26500000x,SABC,Tanker", "nine digits"),
        ("Anna,002650001,SABC,Tanker", "coast station"),
        ("Anna,999000001,SABC,Tanker", "aid to navigation"),
        ("Anna,299000001,QABC,Tanker", "--exercise"),
        ("Anna,200000001,SABC,Tanker", "no country has the MID 200"),
        ("Anna,265000001,DABC,Tanker", "call sign DABC is not of Sweden"),
        ("Anna,265000001,S!,Tanker", "call sign 'S!'"),
        ("Anna,265000001,SABC,Rocket", "type 'Rocket' is unknown; choose one of Cargo"),
        ("!!,265000001,SABC,Tanker", "the name is empty"),
        ("Anna,265000001,SABC,Tanker\nBerta,265000001,SABD,Tanker", "line 3: .*line 2 too"),
        ('"Anna,265000001,SABC,Tanker', "line 2"),
    ],
)
def test_broken_rows(tmp_path: Path, row: str, reason: str) -> None:
    with pytest.raises(GraftError, match=f"(?s){reason}"):
        read_register(written(tmp_path, HEAD + row + "\n"))


def test_the_first_faults_are_all_in_one_message(tmp_path: Path) -> None:
    file = written(tmp_path, HEAD + "Anna,1,,\n" * 8)
    with pytest.raises(GraftError) as caught:
        read_register(file)
    assert str(caught.value).count("line ") == 5 and "and 3 more" in str(caught.value)


def test_files_that_are_no_register(tmp_path: Path) -> None:
    for text, reason in (
        ("name,mmsi\nAnna,1\n", "lacks the column call_sign"),
        ("", "lacks the column name"),
        (HEAD, "holds no vessel"),
    ):
        with pytest.raises(GraftError, match=reason):
            read_register(written(tmp_path, text))
    (tmp_path / "register.csv").write_bytes(b"name\x00\x81,\xff")
    with pytest.raises(GraftError, match="UTF-8"):
        read_register(tmp_path / "register.csv")
    with pytest.raises(GraftError, match="--register"):
        read_register(tmp_path / "none.csv")


def test_exercise_numbers_are_for_exercises(tmp_path: Path) -> None:
    file = written(tmp_path, HEAD + "Anna,299000001,QABC,Tanker\n")
    assert read_register(file, exercise=True)[0].mmsi == "299000001"
    with pytest.raises(GraftError, match="not of exercises"):
        check_ship("299000001", "SABC", exercise=True)


def test_classes_of_mmsi() -> None:
    classes = {
        "211000001": "ship",
        "021100001": "group",
        "002110001": "coast station",
        "111211001": "search and rescue aircraft",
        "992110001": "aid to navigation",
        "982110001": "craft of a parent ship",
        "821100001": "handheld",
        "970123456": "AIS search and rescue transmitter",
        "972123456": "man overboard device",
        "974123456": "EPIRB with AIS",
    }
    assert {mmsi: mmsi_class(mmsi) for mmsi in classes} == classes
    for wrong in ("100000001", "9" * 8, "٢" * 9):
        with pytest.raises(GraftError, match="MMSI"):
            mmsi_class(wrong)


def test_the_table_of_mids() -> None:
    table = countries()
    assert table["366"][0] == table["303"][0] == "United States"
    samples = {"211": "DA", "219": "OZ", "235": "M", "257": "LA", "538": "V7", "636": "A8"}
    assert all(prefix in table[mid][1] for mid, prefix in samples.items())
    assert not set(table) & set(EXERCISE_MIDS)
    assert all(len(mid) == 3 and "201" <= mid <= "775" for mid in table)
    assert not any(p.startswith("Q") for _, prefixes in table.values() for p in prefixes)
