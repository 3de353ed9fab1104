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


def active(rule, told, as_of=20):
    return evaluate([Rule(**rule)], [result(told)], DAY.format(as_of))


class TestLimits:
    RULE = {"kpi": "exclusion_rate", "above": 0.25}  # noqa: RUF012

    def test_one_day_raises_nothing_and_two_of_three_do(self):
        assert active(self.RULE, rows(0.2, 0.2, 0.3)) == []
        (alert,) = active(self.RULE, rows(0.3, 0.2, 0.3))

        assert (alert["kpi"], alert["kind"], alert["date"], alert["value"]) == (
            "exclusion_rate",
            "above",
            DAY.format(3),
            0.3,
        )
        assert alert["sentence"]["en"] == (
            "Exclusion rate is 30.0%, above its limit of 25.0%; on 2 of 3 days or more since 3 Nov 2026."
        )
        assert "vượt ngưỡng 25,0%" in alert["sentence"]["vi"]

    def test_it_keeps_the_day_of_its_beginning_while_it_lasts_and_then_ends(self):
        for told, since in (((0.3, 0.3, 0.3, 0.3), 2), ((0.3, 0.3, 0.2, 0.3), 2), ((0.3, 0.3, 0.2, 0.2, 0.3, 0.3), 6)):
            assert active(self.RULE, rows(*told))[0]["date"] == DAY.format(since)
        assert active(self.RULE, rows(0.3, 0.3, 0.3, 0.2, 0.2)) == []

    def test_below_and_days_without_a_value(self):
        (alert,) = active({"kpi": "orders", "below": 50}, rows(60, 40, None, 30, kpi="orders"))

        assert (alert["kind"], alert["value"], alert["date"]) == ("below", 30, DAY.format(4))

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

    def test_muted_until_a_day(self):
        assert self.found(kpi="orders", mute_until=date(2026, 11, 20))[0]["muted"]
        assert not self.found(kpi="orders", mute_until=date(2026, 11, 19))[0]["muted"]


BAD = {
    "- kpi: exclusion_rat\n  above: 1": "rule 1: there is no KPI 'exclusion_rat'. Did you mean exclusion_rate",
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
}


class TestReading:
    @pytest.mark.parametrize("text", BAD)
    def test_what_is_refused(self, tmp_path, text):
        (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(KpiError, match=BAD[text]):
            read_rules(tmp_path / "rules.yaml")

    def test_no_file(self):
        with pytest.raises(KpiError, match=r"There is no file of alert rules none\.yaml"):
            read_rules("none.yaml")

    def test_the_rules_beside_the_notebooks_are_read(self):
        assert {rule.kpi for rule in read_rules("notebooks/alerts.yaml")} >= {"*", "exclusion_rate"}

    def test_an_empty_file_has_no_rules(self, tmp_path):
        (tmp_path / "rules.yaml").write_text("# none\n", encoding="utf-8")

        assert read_rules(tmp_path / "rules.yaml") == ()
