"""Alert rules: what may be written, what is told of the results of a run, hysteresis, monitors, muting."""

from datetime import date

import pytest

from kpi_helpers.errors import KpiError
from kpi_helpers.rules import Rule, evaluate, read_rules

DAY = "2026-11-{:02}"


def rows(*values, kpi="exclusion_rate", first=1, **more):
    return [{"kpi": kpi, "date": DAY.format(first + i), "value": v, **more} for i, v in enumerate(values)]


def result(told, **more):
    return {"name": "watched", "sentence": {"en": "x", "vi": "x"}, "rows": told, **more}


def active(rule, told, as_of=8):
    return evaluate([Rule(**rule)], [result(told)], DAY.format(as_of))


class TestLimits:
    RULE = {"kpi": "exclusion_rate", "above": 0.25}  # noqa: RUF012

    def test_one_day_raises_nothing_and_two_of_three_do(self):
        assert active(self.RULE, rows(0.2, 0.2, 0.3)) == []
        (alert,) = active(self.RULE, rows(0.2, 0.3, 0.2, 0.3))

        told = {"kpi": "exclusion_rate", "kind": "above", "date": DAY.format(4), "open": False, "value": 0.3}
        assert alert.items() >= {**told, "low": None, "high": 0.25, "rule": "exclusion_rate, above 0.25"}.items()
        assert alert["sentence"]["en"] == (
            "Exclusion rate: above its limit of 25.0% on 2 of the last 3 days, an alert since 4 Nov 2026; "
            "the latest value is 30.0%."
        )
        assert "vượt ngưỡng 25,0% trong 2 trên 3 ngày" in alert["sentence"]["vi"]

    def test_what_is_said_is_true_on_a_good_day_of_an_alert(self):
        (alert,) = active({**self.RULE, "below": 0.1}, rows(0.2, 0.3, 0.3, 0.2))

        assert alert["kind"] == "above" and alert["value"] == 0.2
        assert "above its limit of 25.0% on 2 of the last 3 days" in alert["sentence"]["en"]
        assert "the latest value is 20.0%" in alert["sentence"]["en"]

    def test_an_alert_older_than_the_days_shown_says_so(self):
        (alert,) = active(self.RULE, rows(0.3, 0.3, 0.3, 0.3))

        assert alert["open"] and "3 of the last 3 days, an alert since 2 Nov 2026 or earlier" in alert["sentence"]["en"]

    @pytest.mark.parametrize("days", [{}, {"date": DAY.format(5)}])
    def test_a_limit_is_never_held_to_one_value_of_several(self, days):
        told = [{"kpi": "exclusion_rate", "channel": c, "value": v, **days} for c, v in (("A", 0.1), ("B", 0.3))]
        (alert,) = active(self.RULE, told)

        assert (alert["kind"], alert["muted"], alert["value"]) == ("unclear", True, None)
        assert "has 2 values of it" in alert["sentence"]["en"]

    def test_where_may_name_the_result(self):
        table = {**result([{"kpi": "exclusion_rate", "value": v} for v in (0.1, 0.3)]), "name": "table"}
        told = [table, result(rows(0.3, 0.3))]

        assert evaluate([Rule(**self.RULE)], told, DAY.format(8))[0]["kind"] == "above"  # days come first
        assert evaluate([Rule(**self.RULE, where={"result": "table"})], told, DAY.format(20))[0]["kind"] == "unclear"

    def test_each_of_two_rules_of_a_kpi_is_told(self):
        two = [Rule(**self.RULE), Rule(kpi="exclusion_rate", above=0.29, owner="Lan")]

        assert {a["owner"] for a in evaluate(two, [result(rows(0.2, 0.3, 0.3))], DAY.format(3))} == {"", "Lan"}

    def test_it_keeps_the_day_of_its_beginning_while_it_lasts_and_then_ends(self):
        for told, since in (((0.3, 0.3, 0.3, 0.3), 2), ((0.3, 0.3, 0.2, 0.3), 2), ((0.3, 0.3, 0.2, 0.2, 0.3, 0.3), 6)):
            assert active(self.RULE, rows(*told))[0]["date"] == DAY.format(since)
        assert active(self.RULE, rows(0.3, 0.3, 0.3, 0.2, 0.2)) == []

    def test_below_and_days_without_a_value(self):
        (alert,) = active({"kpi": "orders", "below": 50}, rows(60, 40, None, 30, kpi="orders"))

        assert (alert["kind"], alert["value"], alert["date"]) == ("below", 30, DAY.format(4))

    def test_days_after_the_run_and_long_before_it_are_no_alert_of_today(self):
        told = rows(0.2, 0.2, 0.2, 0.3, 0.3)

        assert active(self.RULE, told, as_of=3) == [] and active(self.RULE, told, as_of=5)
        assert active(self.RULE, told, as_of=11) and active(self.RULE, told, as_of=12) == []
        assert evaluate([Rule(**self.RULE)], [result(told)], "undated")

    def test_days_that_are_missing_are_days(self):
        told = [rows(0.3)[0], rows(0.3, first=7)[0]]
        daily = [*rows(0.1, 0.1), *told[1:]]

        assert active(self.RULE, daily) == []  # one of the last three days
        assert active(self.RULE, told)[0]["kind"] == "unclear"
        assert "is not given day by day here" in active(self.RULE, told)[0]["sentence"]["en"]

    def test_days_beyond_either_limit_are_not_added_up(self):
        rule = {"kpi": "orders", "above": 10, "below": 2}

        assert active(rule, rows(1, 5, 20, kpi="orders")) == []
        assert [a["kind"] for a in active(rule, rows(1, 20, 1, kpi="orders"))] == ["below"]

    def test_a_single_value_is_enough_where_there_are_no_days(self):
        told = [{"kpi": "exclusion_rate", "value": 0.3}]

        assert active(self.RULE, told)[0]["sentence"]["en"] == "Exclusion rate is 30.0%, above its limit of 25.0%."
        assert active(self.RULE, [{"kpi": "exclusion_rate", "value": 0.2}]) == []

    def test_where_chooses_rows(self):
        told = rows(0.3, 0.3, audience="A") + rows(0.1, 0.1, audience="B")

        assert active({**self.RULE, "where": {"audience": "A"}}, told)
        assert active({**self.RULE, "where": {"audience": "B"}}, told) == []


class TestMonitors:
    def found(self, as_of=20, **rule):
        told = rows(5.0, 9.0, 5.0, kpi="orders", first=13, kind="")
        told[1]["kind"] = "spike"
        why = [{"kpi": "orders", "date": DAY.format(14), "en": "Orders: why", "vi": "Đơn: vì sao"}]
        return evaluate([Rule(monitor=True, **rule)], [result(told, why=why)], DAY.format(as_of))

    def test_an_alarm_is_told_for_a_week_with_its_why(self):
        (alert,) = self.found(kpi="*", owner="Lan")

        assert alert["sentence"] == {"en": "Orders: why", "vi": "Đơn: vì sao"}
        assert (alert["kind"], alert["date"], alert["owner"], alert["muted"]) == ("spike", DAY.format(14), "Lan", False)
        assert self.found(as_of=21, kpi="*") == [] and self.found(kpi="sessions") == []
        assert self.found(as_of=13, kpi="*") == []

    def test_a_monitor_of_its_own_stands_for_the_one_of_all(self):
        told = [{"kpi": kpi, "date": DAY.format(20), "value": 1.0, "kind": "dip"} for kpi in ("orders", "sessions")]
        both = [Rule(kpi="*", monitor=True), Rule(kpi="orders", monitor=True, mute_until=date(2026, 12, 1))]
        found = evaluate(both, [result(told)], DAY.format(20))

        assert {(a["kpi"], a["muted"]) for a in found} == {("orders", True), ("sessions", False)}
        assert found[0]["sentence"]["en"] == "x"  # what the result says, where no alarm has words of its own

    def test_muted_until_a_day(self):
        assert self.found(kpi="orders", mute_until=date(2026, 11, 20))[0]["muted"]
        assert not self.found(kpi="orders", mute_until=date(2026, 11, 19))[0]["muted"]


BAD = {
    "- kpi: exclusion_rat\n  above: 1": "rule 1: there is no KPI 'exclusion_rat'. Did you mean exclusion_rate",
    "- kpi: orders\n  above: 1\n  mute_until: 2026-02-30": "no YAML in UTF-8: day is out of range",
    f"- kpi: orders\n  above: {10**400}": "is no limit. Write a number such as 0.25",
    "- kpi: orders\n  above: 1\n  of: 10000000000": "of is 10000000000, more than 366 days",
    "- kpi: orders\n  abov: 1": "'abov' is no part of a rule. Did you mean above",
    "- kpi: orders": "give above, below or both; or else monitor: true",
    "- kpi: orders\n  above: 1\n  monitor: true": "give above, below or both; or else monitor",
    "- kpi: orders\n  above: yes": "above is True, not a number",
    "- kpi: orders\n  above: 25%": "above is '25%', not a number",
    "- kpi: orders\n  above: 1\n  below: 2": "below=2 must be less than above=1",
    "- kpi: orders\n  above: 1\n  sustain: 4": "sustain=4 must be in",
    "- kpi: orders\n  above: 1\n  mute_until: soon": "mute_until is 'soon', not a date",
    "- orders": "must be a mapping with a kpi",
    "kpi: orders": "must be a list of rules",
    "- [": "is no YAML",
    '- kpi: "*"\n  above: 1': "there is no KPI '\\*'",
    "- kpi: orders\n  above: .nan": "is no limit. Write a number",
    "- kpi: orders\n  above: 1\n  where: {channel: }": "each column needs one value",
    "- {kpi: orders, above: 1}\n- {kpi: orders, above: 1, owner: Lan}": "stand there twice: orders, above 1",
}


class TestReading:
    @pytest.mark.parametrize("text", BAD)
    def test_what_is_refused(self, tmp_path, text):
        (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(KpiError, match=BAD[text]):
            read_rules(tmp_path / "rules.yaml")

    def test_another_name_of_a_kpi_is_read_as_its_own(self, tmp_path):
        (tmp_path / "rules.yaml").write_text("- {kpi: conv_rate, below: 0.02}", encoding="utf-8")

        assert [rule.kpi for rule in read_rules(tmp_path / "rules.yaml")] == ["conv_rate_session"]

    def test_another_encoding_is_told(self, tmp_path):
        (tmp_path / "rules.yaml").write_bytes("- {kpi: orders, above: 1, owner: Lê}".encode("cp1258"))
        with pytest.raises(KpiError, match="is no YAML in UTF-8"):
            read_rules(tmp_path / "rules.yaml")

    def test_no_file(self):
        with pytest.raises(KpiError, match=r"There is no file of alert rules none\.yaml"):
            read_rules("none.yaml")

    def test_the_rules_beside_the_notebooks_are_read(self):
        assert {rule.kpi for rule in read_rules("notebooks/alerts.yaml")} >= {"*", "exclusion_rate"}

    def test_an_empty_file_has_no_rules(self, tmp_path):
        (tmp_path / "rules.yaml").write_text("# none\n", encoding="utf-8")

        assert read_rules(tmp_path / "rules.yaml") == ()
