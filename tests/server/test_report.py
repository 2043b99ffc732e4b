"""The report is one calm file that loads nothing, escapes everything, and says in words what holds and what does not."""

import hashlib
import html
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs
from scipy.special import ndtr, ndtri

from fedrad_common import metrics
from fedrad_common.accounting import GaussianEvent, epsilon_rdp
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Envelope, Launch, Privacy, RoundManifest, Sent
from fedrad_server.report import Arm, Comparison, Head, Release, ReportInput, page
from fedrad_server.report.privacy import group_epsilon, site_privacy

SITES = {"aachen": 420, "bergen": 300, "coimbra": 300, "delft": 180, "evora": 60}
NOISE = {"aachen": 0.767, "bergen": 0.903, "coimbra": 0.903, "delft": 1.234, "evora": 3.072}  # each about epsilon 8
PROTOCOL = """
format = "fedrad-protocol-1"
name = "chest-lesion"
title = "{title}"
[task]
kind = "classification"
labels = ["lesion"]
[input]
profile = "xr"
height = 64
width = 64
[model]
name = "resnet"
[privacy]
unit = "patient"
epsilon = 8.0
expected_batch = 30.0
steps_per_round = 10
rounds = 12
[training]
learning_rate = 0.5
[rounds]
quorum = 3
deadline_seconds = 60.0
[evaluation]
rounds = [1, 4, 8, 12]
epsilon = 8.0
"""
MISSING = {("delft", 7): "late", ("evora", 4): "paused", ("evora", 5): "paused", ("coimbra", 9): "non-finite", ("evora", 11): "missing"}


def digest(*words):
    return hashlib.sha256(repr(words).encode()).hexdigest()


def envelope(site, number, kind, **privacy):
    values = {"noise_multiplier": NOISE[site], "sampling_rate": 30 / SITES[site], "steps": 10, "delta": 1e-4, **privacy}
    if kind == "evaluate":
        values |= {"noise_multiplier": 1.4, "sampling_rate": 1.0, "steps": 1}
    return Envelope(
        site=site, run="chest-lesion-1a2b3c4d", epoch=1, round=number, kind=kind, sequence=number, protocol=digest("p"),
        model=digest(number), length=27_000 if kind == "train" else 64, payload=digest(site, number), declared_size=SITES[site],
        privacy=Privacy(**values), ledger=digest("l", site, number), audit=digest("a", site, number), manifest=digest("m", number),
    )  # fmt: skip


def release(site, number, *, generator, noise=1.4):
    n, shift = SITES[site] // 4, 0.4 + 1.6 * (1 - np.exp(-number / 4))
    labels = (generator.uniform(size=n) < 0.35).astype(float)
    scores = ndtr(generator.normal(size=n) + shift * labels - 0.9)
    counts = np.zeros((1, 2, 32))
    np.add.at(counts[0], (labels.astype(int), np.minimum((scores * 32).astype(int), 31)), 1)
    return Release(site, number, counts + np.rint(generator.normal(0, noise, counts.shape)), noise, marked=noise == 0)


def arm(name, kind, auc, **values):
    shift = float(ndtri(auc)) * 2**0.5
    roc = [(x, float(ndtr(ndtri(x) + shift))) for x in (i / 20 for i in range(21))]
    points = ((0.1, 0.07, 210.0), (0.3, 0.24, 90.0), (0.5, 0.52, 60.0), (0.7, 0.76, 80.0), (0.9, 0.95, 120.0))
    known = {"n": 1260, "steps": 120, "bytes_out": 6_480_000, "brier": 0.12, "auc_ci": (auc - 0.03, min(1.0, auc + 0.025))}
    return Arm(name=name, kind=kind, auc=auc, roc=tuple(roc), reliability=points, **{"private": False, **known, **values})


def comparison(unit="patient"):
    federated = arm("federated, ε 8", "federated", 0.912, private=True, epsilon=8.0, delta=1e-4)
    shared = [
        federated,
        arm("federated", "federated", 0.941),
        arm("pooled", "pooled", 0.948, bytes_out=0),
        arm("pooled, ε 8", "pooled", 0.921, private=True, epsilon=8.0),
    ]
    alone = [arm(f"{site} alone", "local", 0.86 - 0.03 * i, site=site, n=n, bytes_out=0) for i, (site, n) in enumerate(SITES.items())]
    return Comparison(unit=unit, arms=(*shared, *alone), seeded=True)


def example(*, title="Lesions on chest radiographs, five hospitals", sites=SITES, **changes):
    protocol = parse_protocol(PROTOCOL.replace("{title}", title).encode())
    launch = Launch(
        run="chest-lesion-1a2b3c4d", protocol=protocol.hash, coordinator=digest("k"), roster={site: digest(site) for site in sites},
        created="2026-11-23T20:15:00+00:00", versions={"fedrad": "0.1.0", "torch": "2.13.0", "flwr": "1.41.0"},
    )  # fmt: skip
    rounds = range(1, 13)
    took_part = [(site, number) for number in rounds for site in sites if (site, number) not in MISSING]
    manifests = [
        RoundManifest(
            run=launch.run, epoch=1, round=number, protocol=protocol.hash, launch=digest("b"), previous=digest("m", number),
            model=digest("w", number), state=digest("s", number), released=digest("w", number), events=digest("v", number),
            sent=Sent(train=digest("w", number), evaluate=digest("w", number)),
            updates={site: digest(site, number) for site in sites if number and (site, number) not in MISSING},
            missing={site: word for (site, at), word in MISSING.items() if at == number and word != "missing"},
        )
        for number in range(13)
    ]  # fmt: skip
    generator = np.random.default_rng(1)
    evaluated = [(site, number) for number in (1, 4, 8, 12) for site in sites if site != "evora"]
    values = ReportInput(
        protocol=protocol, launch=launch, state="complete", manifests=tuple(manifests), digests=tuple(digest("m", n) for n in range(13)),
        envelopes=(*(envelope(s, n, "train") for s, n in took_part), *(envelope(s, n, "evaluate") for s, n in evaluated)),
        releases=tuple(release(site, number, generator=generator) for site, number in evaluated),
        heads=(Head("manifests", 13, digest("h")), Head("events", 31, digest("e"))), envelope_bytes=dict.fromkeys(sites, 11_000),
    )  # fmt: skip
    return replace(values, **changes)


class Reader(HTMLParser):
    """Text, tags with attributes, and what the scripts hold."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.words, self.scripts, self._inside = [], [], [], ""
        self.feed(document.replace(get_plotlyjs(), ""))  # five megabytes that are not ours

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def figures(self):
        return json.loads(next(script for script in self.scripts if script.startswith("{")))


@pytest.fixture(scope="module")
def document():
    return page(example(comparison=comparison()))


def test_the_file_carries_plotly_once_and_loads_nothing(document):
    assert len(document.encode()) < 6_000_000
    assert document.count(get_plotlyjs()) == 1
    own = document.replace(get_plotlyjs(), "")
    assert "http://" not in own
    assert "https://" not in own
    for tag, attributes in Reader(document).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")


def test_the_content_policy_names_exactly_the_scripts_that_are_there(document):
    import base64

    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', document)[1])
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    run = re.findall(r"<script>(.*?)</script>", document, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in run]
    assert policy.split("script-src ")[1].split(";")[0].split() == hashes


def test_every_figure_has_a_place_and_is_valid_plotly(document):
    reader = Reader(document)
    places = [attributes["data-figure"] for _, attributes in reader.tags if "data-figure" in attributes]
    assert sorted(places) == sorted(reader.figures)
    assert {"arms", "convergence-0", "roc-arms", "reliability-arms", "epsilon"} <= set(places)
    for spec in reader.figures.values():
        go.Figure(json.loads(re.sub(r"var\(--[a-z0-9-]+\)", "red", json.dumps(spec))))


def test_hostile_titles_and_names_stay_text():
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & 'q'"
    hostile = comparison()
    hostile = hostile.model_copy(update={"arms": (hostile.arms[0].model_copy(update={"name": attack}), *hostile.arms[1:])})
    values = example(title=attack, comparison=hostile, state=attack, heads=(Head(attack, 1, attack),))
    manifests = (*values.manifests[:-1], values.manifests[-1].model_copy(update={"missing": {"evora": attack}, "updates": {}}))
    launch = values.launch.model_copy(update={"created": attack, "versions": {attack: attack}})
    document = page(replace(values, manifests=manifests, launch=launch))
    reader = Reader(document)
    assert [tag for tag, _ in reader.tags].count("script") == 3
    assert not [attributes for _, attributes in reader.tags if "onerror" in attributes]
    assert attack in reader.text
    names = [trace.get("name") for trace in reader.figures["roc-arms"]["data"]]
    assert html.escape(attack, quote=False) in names  # plotly has an HTML of its own


def test_every_section_is_there_and_the_summary_says_it_in_words(document):
    reader = Reader(document)
    for heading in (
        "In short", "Alone, together, pooled", "Convergence at each hospital", "ROC and reliability", "Privacy spent at each hospital",
        "Who took part", "What left each hospital", "What these numbers don't show", "Protocol", "Records, versions and seeds",
    ):  # fmt: skip
        assert heading in reader.text
    assert "Five hospitals trained one model for “lesion” together, 12 of 12 rounds." in reader.text
    assert "the federated model reached an AUC of 0.912 (95 % interval 0.882 to 0.937)" in reader.text
    assert parse_protocol(PROTOCOL.replace("{title}", "Lesions on chest radiographs, five hospitals").encode()).hash in reader.text


def test_without_a_comparison_the_summary_speaks_of_the_pooled_validation():
    values = example()
    text = Reader(page(values)).text
    pooled = values.pooled[-1]
    assert f"was {metrics.auc(pooled.counts[0], noise=pooled.noise):.3f} (95 % interval" in text
    assert "Alone, together, pooled" not in text


def test_participation_is_told_in_words_not_only_in_colours(document):
    text = Reader(document).text
    assert "accepted in every round" in text
    assert "accepted in 11 of 12; late: 7" in text
    assert "paused: 4–5; missing: 11" in text
    assert "non-finite: 9" in text


def test_the_unit_is_printed_and_what_an_image_is_worth_for_a_child():
    assert "Unit: patient." in Reader(page(example())).text
    values = example(comparison=comparison("image"))
    text = Reader(page(values)).text
    worst = max(site_privacy(values), key=lambda line: line.whole_run)
    two, three = (float(re.search(rf"ε ≤ ([0-9.]+) {words}", text)[1]) for words in ("for a child with 2", "with 3"))
    assert two > 2 * worst.whole_run
    assert three > 3 * worst.whole_run


@pytest.mark.parametrize("event", [GaussianEvent(1.05, 0.1, 120), GaussianEvent(3.0, 0.5, 40)])
def test_a_group_of_one_costs_what_one_costs(event):
    assert epsilon_rdp([event], 1e-4) - 0.01 <= group_epsilon(event, 1e-4, 1) <= 1.05 * epsilon_rdp([event], 1e-4) + 0.1


def test_a_group_under_full_batches_is_a_gaussian_of_as_many_clip_norms():
    expected = epsilon_rdp([GaussianEvent(20 / 3, 1.0, 50)], 1e-5)
    assert expected - 0.01 <= group_epsilon(GaussianEvent(20.0, 1.0, 50), 1e-5, 3) <= 1.05 * expected + 0.1


def test_epsilon_grows_by_round_and_ends_at_what_the_accepted_steps_cost():
    lines = {line.site: line for line in site_privacy(example())}
    assert list(lines) == list(SITES)
    for line in lines.values():
        spent = [epsilon for _, epsilon in line.curve]
        assert spent == sorted(spent)
        assert spent[-1] <= line.whole_run
    assert lines["delft"].steps == 110
    assert lines["delft"].curve[-1][1] < lines["delft"].whole_run
    assert lines["aachen"].curve[-1] == (12, lines["aachen"].whole_run)
    assert lines["evora"].validation is None
    assert lines["aachen"].validation > 0


def test_a_site_without_noise_says_no_bound_and_nobody_is_told_a_number():
    values = example()
    bare = tuple(
        envelope("bergen", e.round, "train", noise_multiplier=0.0, marked=True) if (e.site, e.kind) == ("bergen", "train") else e
        for e in values.envelopes
    )
    text = Reader(page(replace(values, envelopes=bare))).text
    assert "no privacy bound at 1 of 5 sites" in text
    assert "no bound" in text
    assert "reveals of any one patient no more" not in text


def test_seeded_noise_is_said_at_the_top():
    values = example()
    assert "its numbers hold, its privacy does not" not in Reader(page(values)).text
    seeded = replace(values, launch=values.launch.model_copy(update={"seeded": True}))
    assert "its numbers hold, its privacy does not" in Reader(page(seeded)).text


def test_marked_histograms_are_named_among_what_the_numbers_do_not_show():
    generator = np.random.default_rng(0)
    exact = tuple(release(site, 12, generator=generator, noise=0.0) for site in ("aachen", "bergen"))
    text = Reader(page(example(releases=exact))).text
    assert "Marked releases" in text
    assert "exact, marked" in text


@pytest.mark.parametrize("empty", [np.zeros((1, 2, 32)), np.full((1, 2, 32), -3.0), np.eye(2)[None, :, [0] * 32] * 9.0])
def test_poor_histograms_are_said_to_be_too_few_and_never_crash(empty):
    poor = tuple(Release(site, number, empty, 1.4, marked=False) for site in SITES for number in (1, 12))
    text = Reader(page(example(releases=poor))).text
    assert "too few" in text
    assert "No estimate of its quality" in text


def test_a_run_that_has_only_begun_is_a_report_too():
    values = example()
    text = Reader(
        page(replace(values, manifests=values.manifests[:1], digests=values.digests[:1], envelopes=(), releases=(), state="open"))
    ).text
    assert "No round was closed." in text
    assert "No update was accepted." in text


def test_the_same_run_gives_the_same_bytes():
    assert page(example(comparison=comparison())) == page(example(comparison=comparison()))


def test_a_report_takes_seconds_not_minutes():
    start = time.process_time()
    page(example(comparison=comparison("image")))
    assert time.process_time() - start < 20
