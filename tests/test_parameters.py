import json

import nbformat
import pytest
from helpers import write_notebook

from lepton_kit.errors import InputError
from lepton_kit.runs.parameters import Sources, check_values, json_schema, parse_parameters, read_parameters, shown

EVERY_TYPE = """
days: int = 5  # window, days
rate: float = 0.1
name: str = "goog"
deep: bool = False
widths: list[int] = [8, 16]  # units
columns: dict[str, str] = {}
limit: Optional[float] = None
also: int | None = None
model: Literal["linear", "mlp"] = "linear"
until: date = "2007-12-31"
moment: datetime = "2008-01-02T03:04:05"
table: Path = "prices.csv"
plain = 3
needed: int
"""


@pytest.fixture
def sources(project):
    (project / "prices.csv").write_text("date,close\n")
    return Sources(project, {})


def check(given, sources, source=EVERY_TYPE):
    return check_values(parse_parameters(source, "n.ipynb"), given, sources, "n.ipynb", "-p")


def test_every_type_is_read_with_its_default_and_comment():
    found = {p.name: p for p in parse_parameters(EVERY_TYPE, "n.ipynb")}
    assert found["days"].help == "window, days"
    assert found["rate"].help == ""
    assert found["needed"].required
    assert found["columns"].default == {}
    assert found["plain"].annotation == "int"
    assert found["table"].holds_path


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("7", "days", 7), ("1e-3", "rate", 0.001), ("3", "rate", 3.0), ("5", "name", "5"), ("null", "name", "null"),
        ("true", "deep", True), ("[1, 2]", "widths", [1, 2]), ('{"Date": "date"}', "columns", {"Date": "date"}),
        ("null", "limit", None), ("2.5", "limit", 2.5), ("mlp", "model", "mlp"), ("2008-02-29", "until", "2008-02-29"),
        ("2008-01-02 03:04", "moment", "2008-01-02T03:04:00"), ("quote ' \" \n ünï", "name", "quote ' \" \n ünï"),
    ],
)  # fmt: skip
def test_text_from_the_command_line_becomes_a_value_of_the_type(text, name, value, sources):
    assert check({"needed": "1", name: text}, sources)[name] == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("days", "5.5", "must be int"), ("days", "five", "'five' (from -p)"), ("widths", '["a"]', "list[int]"),
        ("model", "tree", "'linear' or 'mlp'"), ("until", "2007-02-30", "must be date"), ("deep", "maybe", "bool"),
        ("table", "nowhere.csv", "no file or folder 'nowhere.csv'"), ("table", "run:01/x", "no finished run of '01'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_source_and_what_is_allowed(name, text, words, sources):
    with pytest.raises(InputError, match=f"parameter '{name}'") as error:
        check({"needed": 1, name: text}, sources)
    assert words in str(error.value)


def test_quotes_that_were_typed_belong_to_a_text_and_defaults_are_taken_as_they_stand(sources):
    assert check({"needed": 1, "name": '"q"'}, sources)["name"] == '"q"'
    assert check({}, sources, "text: str | int = '5'")["text"] == "5"


def test_all_problems_are_told_at_once(sources):
    with pytest.raises(InputError) as error:
        check({"dais": 1, "rate": "x"}, sources)
    assert "did you mean 'days'?" in str(error.value)
    assert "'rate' = 'x'" in str(error.value)
    assert "'needed'" in str(error.value)


def test_a_default_of_the_wrong_type_is_the_notebooks_fault(sources):
    with pytest.raises(InputError, match=r"'days' = 'x' \(from default in n.ipynb\)"):
        check({}, sources, 'days: int = "x"')


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("days: 'int|' = 5", "not Python"), ("x: dict[str] = {}", "not known"), ("x = {[1]: 2}", "must be a literal"),
        ("days: Days = 5", "type 'Days' is not known"), ("days: int = compute()", "must be a literal"),
        ("a, b = 1, 2", "only `name: type = literal`"), ("if True: x = 1", "only `name: type = literal`"),
        ("x = 1\nx = 2", "assigned twice"), ("x: int = ", "not Python: line 1"),
    ],
)  # fmt: skip
def test_a_parameters_cell_of_another_shape_is_refused(line, words):
    with pytest.raises(InputError, match=r"n\.ipynb") as error:
        parse_parameters(line, "n.ipynb")
    assert words in str(error.value)


def test_an_annotation_is_never_evaluated(tmp_path):
    with pytest.raises(InputError, match="not known"):
        parse_parameters(f"x: open({str(tmp_path / 'made')!r}, 'w') = 1", "n.ipynb")
    assert not (tmp_path / "made").exists()


def test_values_for_a_notebook_without_a_parameters_cell_are_refused(sources, project):
    path = write_notebook(project / "n.ipynb", ["1"])
    parameters = read_parameters(nbformat.read(path, 4), "n.ipynb")
    assert parameters is None
    with pytest.raises(InputError, match="no cell tagged 'parameters'"):
        check_values(parameters, {"x": 1}, sources, "n.ipynb", "-p")
    assert check_values(parameters, {}, sources, "n.ipynb", "-p") == {}


KINDS = """
weights = {1: 0.5, 2: 0.3}  # by month
span = (1, 2)
kinds = {"a", "b"}
mark = b"x"
z = 1 + 2j
flags: dict[int, str] = {0: "no"}
anything: Any = {3: (4,)}
rate: float = 3
endless = 1e999
"""


def test_defaults_stay_as_the_cell_has_them(sources):
    parameters = parse_parameters(KINDS, "n.ipynb")
    values = check_values(parameters, {}, sources, "n.ipynb", "-p")
    for parameter in parameters:
        assert values[parameter.name] is parameter.default
    told = {p.name: shown(p, p.default, is_given=False) for p in parameters}
    assert told == {
        "weights": "{1: 0.5, 2: 0.3}", "span": "(1, 2)", "kinds": "{'a', 'b'}", "mark": "b'x'", "z": "1 + 2j",
        "flags": "{0: 'no'}", "anything": "{3: (4,)}", "rate": 3, "endless": "1e309",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("flags", '{"7": "yes"}', {7: "yes"}), ("span", "[3, 4]", (3, 4)), ("kinds", '["c"]', {"c"}),
        ("mark", "y", b"y"),
        ("z", "2+3j", 2 + 3j), ("endless", "-Infinity", float("-inf")), ("endless", "inf", float("inf")),
    ],
)  # fmt: skip
def test_a_given_value_has_the_kind_of_its_parameter_and_comes_back_from_a_manifest(name, text, value, sources):
    assert check({name: text}, sources, KINDS)[name] == value
    [parameter] = [p for p in parse_parameters(KINDS, "n.ipynb") if p.name == name]
    held = json.loads(json.dumps(shown(parameter, value, is_given=True), allow_nan=False))
    assert check({name: held}, sources, KINDS)[name] == value


@pytest.mark.parametrize(
    ("line", "annotation", "words"),
    [
        ("x = 5  # type: str", "str", ""), ("x = 5  # type: int in days", "int", "in days"),
        ("x = []  # type: list[int] widths", "list[int]", "widths"), ("x = None  # type: str", "str | None", ""),
        ("x = 5  # type: of the model", "int", "type: of the model"), ("x: int = 5  # type: str", "int", "type: str"),
        ("x = {\n  'a': 1,  # first\n}  # type: dict[str, int]", "dict[str, int]", "first"),
    ],
)  # fmt: skip
def test_a_comment_gives_the_type_as_in_papermill(line, annotation, words):
    [parameter] = parse_parameters(line, "n.ipynb")
    assert (parameter.annotation, parameter.help) == (annotation, words)


def test_a_value_for_a_parameter_that_a_comment_types_is_checked(sources):
    source = "x = '1'  # type: str"
    assert check({"x": "5"}, sources, source)["x"] == "5"
    with pytest.raises(InputError, match="must be int"):
        check({"x": "five"}, sources, "x = 5  # type: int")


def test_two_parameters_cells_are_refused():
    cells = [nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]}) for _ in range(2)]
    with pytest.raises(InputError, match="2 cells are tagged"):
        read_parameters(nbformat.v4.new_notebook(cells=cells), "n.ipynb")


def test_the_schema_says_what_the_table_says():
    schema = json_schema(parse_parameters(EVERY_TYPE, "n.ipynb"), "n")
    assert schema["required"] == ["needed"]
    assert schema["properties"]["days"] == {"type": "integer", "description": "window, days", "default": 5}
    assert schema["properties"]["model"]["enum"] == ["linear", "mlp"]
    assert schema["properties"]["table"]["format"] == "path"
    assert schema["additionalProperties"] is False
    json.dumps(schema)
