from lepton_kit.runs.comparison import compare_results


def result(value, rtol=0.0, atol=0.0, unit="", compare=True):
    return {"name": "x", "value": value, "unit": unit, "rtol": rtol, "atol": atol, "compare": compare}


def differ(old, new):
    return [d.result for d in compare_results({"x": old}, {"x": new})]


def test_numbers_agree_within_their_declared_tolerance():
    assert differ(result(100.0, rtol=0.01), result(100.9)) == []
    assert differ(result(100.0, rtol=0.01), result(101.1)) == ["x"]
    assert differ(result(0.0, atol=0.1), result(0.05)) == []
    assert differ(result(100.0, rtol=0.5), result(160.0)) == ["x"]  # of the old value, not of the new one


def test_a_number_inside_a_table_is_named_by_its_place():
    old = result({"columns": ["a", "b"], "rows": [[1, 2.0], [3, 4.0]]})
    new = result({"columns": ["a", "b"], "rows": [[1, 2.0], [3, 5.0]]})
    assert differ(old, new) == ["x.rows[1][1]"]


def test_texts_truth_values_and_shapes_are_exact():
    assert differ(result("a"), result("b")) == ["x"]
    assert differ(result(True), result(1)) == ["x"]
    assert differ(result([1]), result([1, 2])) == ["x"]
    assert differ(result("nan", rtol=1.0), result("nan")) == []
    assert differ(result(1.0, rtol=1.0), result(None)) == ["x"]


def test_a_changed_unit_is_a_difference():
    assert differ(result(1.0, unit="USD"), result(1.0, unit="EUR")) == ["x (unit)"]


def test_what_is_declared_not_comparable_is_left_alone():
    assert differ(result(1.0, compare=False), result(9.0)) == []


def test_missing_and_new_results_are_differences():
    assert [d.result for d in compare_results({"a": result(1)}, {"b": result(1)})] == ["a", "b"]
