import hashlib
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from disparo.columns import plain_name
from disparo.errors import InputError
from disparo.recipient_files import MAX_CELL, RecipientFile, digest, open_rows
from disparo.rejects import RejectsFile, guarded

Write = Callable[..., Path]
DATA = Path(__file__).parents[1] / "data" / "csv"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "list.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


def values(source: RecipientFile) -> list[dict[str, str]]:
    return [row.values for row in source.rows() if row.fault is None]


def faults(source: RecipientFile) -> dict[int, str]:
    return {row.line: row.fault for row in source.rows() if row.fault is not None}


# --- forms of CSV ---


@pytest.mark.parametrize(
    "name", ["semicolons.csv", "commas.csv", "tabs.csv", "bom.csv", "cp1252.csv", "sep_line.csv"]
)
def test_the_same_list_reads_the_same_in_each_form(name: str) -> None:
    source = open_rows(DATA / name, {"first_name": "Nome"})
    assert source.header == ["celular", "nome", "valor_r"]
    assert source.original_header == ["Celular", "Nome", "Valor (R$)"]
    assert source.columns == ["to", "first_name", "valor_r"]
    assert values(source) == [
        {"to": "5511999990001", "first_name": "João, da Silva", "valor_r": "1.234,56"},
        {"to": "5511999990002", "first_name": "Conceição", "valor_r": "10,00"},
    ]
    assert source.digest == hashlib.sha256((DATA / name).read_bytes()).hexdigest() == digest(DATA / name)


def test_utf_16_with_its_mark_as_excel_saves_unicode_text_is_read(write: Write) -> None:
    source = open_rows(write("Celular\tNome\r\n5511999990001\tJoão\r\n", encoding="utf-16"), {})
    assert (source.encoding, source.delimiter) == ("utf-16", "\t")
    assert values(source) == [{"to": "5511999990001", "nome": "João"}]


def test_quoted_newlines_keep_physical_line_numbers() -> None:
    rows = list(open_rows(DATA / "quoted_newlines.csv", {}).rows())
    assert [(row.line, row.values["nota"]) for row in rows] == [
        (2, "uma\r\nlinha; e outra"),
        (4, "simples"),
        (6, 'com "aspas"'),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_any_line_end_is_one(write: Write, newline: str) -> None:
    source = open_rows(write(newline.join(["to;nome", "1;a", "", "2;b"])), {})
    assert [(row.line, row.values["to"]) for row in source.rows()] == [(2, "1"), (4, "2")]


def test_blank_lines_and_lines_of_delimiters_are_passed_over(write: Write) -> None:
    source = open_rows(write("\n\nto;nome;x\n\n1;a;b\n;;\n   \n2;c;d\n;;;;;\n"), {})
    assert [(row.line, row.fault) for row in source.rows()] == [(5, None), (8, None)]


def test_commas_in_quoted_cells_do_not_mislead_the_look_for_the_delimiter(write: Write) -> None:
    source = open_rows(write('to,texto\n1,"a;b;c;d"\n2,"e;f;g;h"\n'), {})
    assert values(source) == [{"to": "1", "texto": "a;b;c;d"}, {"to": "2", "texto": "e;f;g;h"}]
    decimal = open_rows(write("celular;valor (R$, total)\n1;10,00\n2;20,00\n"), {})
    assert values(decimal)[0] == {"to": "1", "valor_r_total": "10,00"}


def test_a_list_of_one_column_is_read(write: Write) -> None:
    assert values(open_rows(write("to\n1\n\n2\n"), {})) == [{"to": "1"}, {"to": "2"}]


def test_empty_columns_that_a_spreadsheet_left_behind_do_not_count(write: Write) -> None:
    source = open_rows(write("to;nome;;\n1;a;;\n2;b\n3;c;;;;\n4;d;x;\n"), {})
    assert source.header == ["to", "nome"]
    assert [row.values["to"] for row in source.rows() if not row.fault] == ["1", "2", "3"]
    assert list(faults(source)) == [5]


# --- rows that cannot be read ---


def test_faulty_rows_are_reported_with_their_line_and_the_others_go_on() -> None:
    source = open_rows(DATA / "faulty_rows.csv", {})
    assert [row["to"] for row in values(source)] == ["5511999990001", "5511999990005", "5511999990008"]
    found = faults(source)
    assert list(found) == [3, 4, 6, 8, 9]
    assert "2 cells, the header 3" in found[3]
    assert "4 cells, the header 3" in found[4]
    assert "NUL" in found[6]
    assert "inside a quoted cell" in found[8]
    assert "not closed" in found[9]
    assert not any("55119999" in text for text in found.values())


def test_a_quote_that_is_never_closed_costs_its_own_line_only(write: Write) -> None:
    tail = f"2;{'b' * 1000}\n" * 2000
    source = open_rows(write(f'to;nome\n1;"a\n{tail}'), {})
    found = list(source.rows())
    assert (found[0].line, found[0].raw, found[0].values) == (2, ['1;"a'], {})
    assert [row.line for row in found] == list(range(2, 2003))
    assert not any(row.fault for row in found[1:])


def test_a_cell_over_the_bound_is_a_fault(write: Write) -> None:
    source = open_rows(write(f"to;nome\n1;{'x' * (MAX_CELL + 1)}\n2;{'y' * MAX_CELL}\n"), {})
    assert [(row.line, row.fault is None) for row in source.rows()] == [(2, False), (3, True)]


def test_rows_before_the_start_line_are_passed_over(write: Write) -> None:
    path = write('to;nome\n1;"a\nb"\n2;c\n3;d\n')
    every = list(open_rows(path, {}).rows())
    for row, following in itertools.pairwise(every):
        assert next(open_rows(path, {}, start_line=row.line + 1).rows()) == following
    assert list(open_rows(path, {}, start_line=every[-1].line + 1).rows()) == []


def test_a_file_that_changes_under_the_reader_is_noticed(write: Write) -> None:
    path = write("to\n1\n2\n")
    rows = open_rows(path, {}).rows()
    assert next(rows).values == {"to": "1"}
    path.write_text("to\n1\n3\n4\n")
    with pytest.raises(InputError, match="changed"):
        list(rows)
    source = open_rows(path, {})
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        list(source.rows())


# --- files that are no list ---


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "no text"),
        (b" \r\n\r\n", "no text"),
        (b"sep=;\r\n", "no text"),
        (b"to;nome\r\n\r\n", "no rows"),
        (b"PK\x03\x04\x14\x00", "Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "old Excel"),
        (b"%PDF-1.7", "PDF"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"\x00\x01\x02\x03\n", "not text"),
        ("to;nome\n1;a\n".encode("utf-16-le"), "without its mark"),
        (b"\xff\xfet\x00o\x00\n\x00\x00\xd8\n", "UTF-16"),
        (b"<html><table><tr><td>to</td></tr></table>", "web page"),
        (b'{"to": "1"}\n', ".jsonl"),
        (b'[{"to": "1"}]\n', "array"),
        (b"to;nome\n1;\x81\n", "line 2"),
        ("to;nome\n1;João Conceição\n".encode() + b"2;Jo\xe3o\n", "line 3"),
        ("to;nome\n1;Conceição\n2;Jo\u00e3".encode()[:-1], "line 3"),
        ("to;nome\n1;João\n2;Zé".encode()[:-1], "line 3"),
        (b"sep=x\nto;nome\n1;a\n", "'x' is no delimiter"),
        (b'"to;nome\n1;a\n', "header"),
    ],
)
def test_what_is_no_recipient_list_is_refused_in_one_sentence(
    write: Write, content: bytes, named: str
) -> None:
    with pytest.raises(InputError) as refusal:
        open_rows(write(content), {})
    assert named in str(refusal.value)


def test_folders_missing_files_and_other_things_are_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(InputError, match="folder"):
        open_rows(tmp_path, {})
    with pytest.raises(InputError, match="does not exist"):
        open_rows(tmp_path / "none.csv", {})
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="regular file"):
        open_rows(tmp_path / "pipe.csv", {})
    with pytest.raises(InputError, match="spreadsheet"):
        open_rows(write("to;nome\n1;a\n", "list.xlsx"), {})
    with pytest.raises(InputError, match="directory"):
        digest(tmp_path)


def test_a_file_without_line_ends_is_refused_before_it_fills_the_memory(write: Write) -> None:
    with pytest.raises(InputError, match="line of more than"):
        open_rows(write(b"to;nome\n" + b"x" * (9 << 20)), {})


# --- columns ---


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Valor (R$)", "valor_r"),
        ("  Número do Pedido ", "numero_do_pedido"),
        ("FIRST-NAME", "first_name"),
        ("2ª via", "col_2a_via"),
        ("If", "if_"),
        ("R$", "r"),
        ("%", ""),
    ],
)
def test_headers_become_plain_names(header: str, name: str) -> None:
    assert plain_name(header) == name


def test_plain_names_are_unique_and_never_empty(write: Write) -> None:
    source = open_rows(write("to;Nome;nome;;NOME_2;x\n1;a;b;c;d;e\n"), {})
    assert source.header == ["to", "nome", "nome_2", "column_4", "nome_2_2", "x"]
    assert source.columns == source.header


@pytest.mark.parametrize(
    "header",
    ["to", "To", "Celular", "TELEFONE", "WhatsApp", "Fone", "phone", "Número", "Mobile", "Telefone Celular"],
)
def test_usual_names_of_the_recipient_are_recognised(write: Write, header: str) -> None:
    assert values(open_rows(write(f"Nome;{header}\na;1\n"), {})) == [{"nome": "a", "to": "1"}]


def test_a_column_called_to_goes_before_other_usual_names(write: Write) -> None:
    assert values(open_rows(write("celular;to\n1;2\n"), {})) == [{"celular": "1", "to": "2"}]


def test_two_usual_names_are_ambiguous_until_one_is_mapped(write: Write) -> None:
    path = write("Celular;Telefone\n1;2\n")
    with pytest.raises(InputError, match=r"Celular, Telefone.*columns: \{to: Celular\}"):
        open_rows(path, {})
    assert values(open_rows(path, {"to": "Telefone"})) == [{"celular": "1", "to": "2"}]


@pytest.mark.parametrize(
    "wanted", ["Nome do Responsável", "nome_do_responsavel", "NOME DO RESPONSAVEL", " Nome do Responsável "]
)
def test_a_mapping_takes_the_header_exactly_or_folded(write: Write, wanted: str) -> None:
    source = open_rows(write("to;Nome do Responsável\n1;a\n"), {"first_name": wanted})
    assert values(source) == [{"to": "1", "first_name": "a"}]


def test_a_mapping_has_the_first_right_to_its_name(write: Write) -> None:
    source = open_rows(write("to;Celular;nome\n1;2;a\n"), {"to": "Celular", "key": "Celular"})
    assert values(source) == [{"to_2": "1", "to": "2", "key": "2", "nome": "a"}]
    assert source.columns == ["to_2", "to", "key", "nome"]


def test_a_mapping_to_one_of_two_equal_headers_is_ambiguous(write: Write) -> None:
    path = write("to;Nome;Nome\n1;a;b\n")
    with pytest.raises(InputError, match="nome or nome_2"):
        open_rows(path, {"x": "Nome"})
    assert values(open_rows(path, {"x": "nome_2"})) == [{"to": "1", "nome": "a", "x": "b"}]


def test_a_missing_column_is_refused_with_those_there_are(write: Write) -> None:
    with pytest.raises(InputError, match=r"'Nome'.*'first_name'.*to, nomes"):
        open_rows(write("to;nomes\n1;a\n"), {"first_name": "Nome"})
    with pytest.raises(InputError, match=r"Contato, nomes.*columns: \{to: Contato\}"):
        open_rows(write("Contato;nomes\n1;a\n"), {})
    with pytest.raises(InputError, match="no name"):
        open_rows(write("to;nomes\n1;a\n"), {"first name": "nomes"})


def test_a_list_without_a_header_is_refused_without_showing_its_first_row(write: Write) -> None:
    for columns in ({}, {"to": "Celular"}):
        with pytest.raises(InputError, match="names of the columns") as refusal:
            open_rows(write("5511999990001;Maria\n5511999990002;João\n"), columns)
        assert "99999" not in str(refusal.value)
        assert "Maria" not in str(refusal.value)


# --- JSONL ---


def test_jsonl_values_are_text_with_the_digits_they_are_written_with(write: Write) -> None:
    line = '{"Celular": 5511999990001, "ok": true, "n": null, "v": 10.50, "code": %s, "t": "João"}\n' % (
        "1" * 47
    )
    source = open_rows(write(line, "list.jsonl"), {})
    assert values(source) == [
        {"to": "5511999990001", "ok": "true", "n": "", "v": "10.50", "code": "1" * 47, "t": "João"}
    ]


def test_jsonl_columns_are_the_keys_of_all_lines(write: Write) -> None:
    source = open_rows(write('{"to": "1", "a": "x"}\n\n{"b": "y", "to": "2"}\n', "list.ndjson"), {})
    assert source.columns == ["to", "a", "b"]
    rows = list(source.rows())
    assert [(row.line, row.raw) for row in rows] == [(1, ["1", "x", ""]), (3, ["2", "", "y"])]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"to": "1", "x": {"y": 1}}', "'x' is nested"),
        ('{"to": "1", "x": [1]}', "'x' is nested"),
        ('{"to": "1", "to": "2"}', "twice"),
        ('["1"]', "not a JSON object"),
        ('"1"', "not a JSON object"),
        ('{"to": "1"', "not valid JSON"),
        ('{"to": NaN}', "not valid JSON"),
        ('{"to": ' + "[" * 100_000, "not valid JSON"),
        ('{"to": "\\u0000"}', "character"),
        ('{"to": "\\ud83d"}', "character"),
        ('{"to": "' + "1" * MAX_CELL + '"}', "characters"),
    ],
)
def test_a_line_that_is_no_flat_object_is_a_fault(write: Write, line: str, named: str) -> None:
    source = open_rows(write(f'{{"to": "1"}}\n{line}\n{{"to": "3"}}\n', "list.jsonl"), {})
    assert [row.line for row in source.rows() if row.fault is None] == [1, 3]
    assert named in faults(source)[2]


def test_jsonl_without_any_object_is_refused_with_the_first_reason(write: Write) -> None:
    with pytest.raises(InputError, match="Line 1: The line is not valid JSON"):
        open_rows(write("to;nome\n1;a\n", "list.jsonl"), {})
    with pytest.raises(InputError, match="different keys"):
        open_rows(write("".join(f'{{"k{n}": 1}}\n' for n in range(2_500)), "list.jsonl"), {})


# --- rejects ---


def test_rejects_are_written_beside_with_line_and_reason(write: Write, tmp_path: Path) -> None:
    source = open_rows(write("to;nome\n1;=SOMA(A1)\n2;b;c\n"), {})
    with RejectsFile(tmp_path / "natal.csv", source) as rejects:
        for row in source.rows():
            rejects.write(row, "bad_phone", row.fault or "Too short; write area code and number.")
    assert rejects.path == tmp_path / "natal.rejects.csv"
    assert rejects.count == 2
    fault = "The row has 3 cells, the header 2. Put a cell that holds the delimiter into quotes."
    assert rejects.path.read_text(encoding="utf-8-sig").splitlines() == [
        "line;reason;explanation;to;nome",
        '2;bad_phone;"Too short; write area code and number.";1;\'=SOMA(A1)',
        f"3;bad_phone;{fault};2;b;c",
    ]
    assert stat.S_IMODE(rejects.path.stat().st_mode) == 0o600


def test_a_rejects_file_can_be_launched_as_its_source_was(write: Write, tmp_path: Path) -> None:
    cells = ["=1+1", "+5511999990001", "-10,00", "'=x", "'já", '-"a";b', "@x"]
    quoted = ";".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    source = open_rows(write(f"Celular;a;b;c;d;e;f\n{quoted}\n"), {})
    with RejectsFile(tmp_path / "natal.rejects.csv", source) as rejects:
        rejects.write(next(source.rows()), "bad_phone", "-")
    assert rejects.path is not None
    again = open_rows(rejects.path, {"x": "a"})
    assert again.columns == ["to", "x", "b", "c", "d", "e", "f"]
    (row,) = again.rows()
    assert row.raw == cells
    with RejectsFile(tmp_path / "natal", again) as second:
        second.write(row, "bad_phone", "-")
    assert second.path == tmp_path / "natal.rejects-2.csv"
    assert second.path.read_bytes() == rejects.path.read_bytes()


def test_no_rejects_no_file_and_no_older_one_is_replaced(write: Write, tmp_path: Path) -> None:
    source = open_rows(write("to\n1\n"), {})
    with RejectsFile(tmp_path / "a", source) as rejects:
        assert rejects.path is None
    assert not list(tmp_path.glob("*rejects*"))
    for _ in range(3):
        with RejectsFile(tmp_path / "a", source) as rejects:
            rejects.write(next(source.rows()), "r", "e")
    assert sorted(path.name for path in tmp_path.glob("a.*")) == [
        "a.rejects-2.csv",
        "a.rejects-3.csv",
        "a.rejects.csv",
    ]


def test_rejects_that_cannot_be_written_are_an_input_error(write: Write, tmp_path: Path) -> None:
    source = open_rows(write("to\n1\n"), {})
    with pytest.raises(InputError, match="cannot be written"):
        RejectsFile(tmp_path / "missing" / "a", source).write(next(source.rows()), "r", "e")


@pytest.mark.parametrize(
    "cell",
    ["+5511999990001", "+55 (11) 99999-0001", "-10,00", "-1.234,56", "+10%", "Maria", "", "a=b", "'já"],
)
def test_harmless_cells_stay_as_they_are(cell: str) -> None:
    assert guarded(cell) == cell


@pytest.mark.parametrize(
    "cell", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "\t=1", "\r=1"]
)
def test_formulas_are_made_safe(cell: str) -> None:
    assert guarded(cell) == "'" + cell
