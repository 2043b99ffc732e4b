"""The commented `site.toml` that `fedrad-site init` writes: the hospital's own file, meant to be read and changed by a person."""

from fedrad_client.config import Metrics

TEMPLATE = """\
# A fedrad site. What stands here is decided by the hospital; nothing that a coordinator sends can widen it.
format = "fedrad-site-1"
cohort = "{cohort}"                 # folder of the processed images, relative to this file

[site]
name = "{name}"

[coordinator]                     # the one host and port that this node connects to, outbound only
server = "{server}"                       # HOST:PORT; empty: none yet
authority = "{authority}"  # whose certificates are believed; empty: this machine's own list

[privacy]                         # as the ledger was opened: both epsilons may be lowered; the others must stay as they were
epsilon = {epsilon!r}                    # ceiling per patient, over all runs and coordinators, for the site's lifetime
delta = {delta!r}                     # at most 1 / (10 x declared size)
validation_epsilon = 10.0         # ceiling of the validation patients' own line
validation_fraction = {validation_fraction!r}         # of patients, never trained on, in any protocol

[policy]                          # the most that is accepted; unknown means no; may be tightened at any time
tasks = ["classification"]
models = ["any"]                  # or the names of those that are accepted
strategies = ["any"]              # of aggregation; likewise
initial = ["any"]                 # first weights: "random", "public" (so says the coordinator), "run"; likewise
max_parameters = 20000000         # of the whole network, also where a part of it is trained
max_rounds = 200
max_bytes_per_round = 300000000   # in and out together
max_epsilon_per_run = {max_epsilon!r}
min_noise_multiplier = 0.5
declared_size = {declared_size}                 # the only number of patients that may be declared; 0: typed at each approval
metrics = "{metrics}"                # validation histograms: "exact" (marked "no bound"), "noised" or "none"
unbounded = {unbounded}                 # let runs without privacy train here; the ledger says "no bound" for ever
approval = "protocol"             # "run": a person also names each run, with approve --run
hours = []                        # such as ["20:00-06:00"], local time; empty: always
pause_file = "paused"             # while this file exists, every order is answered with "paused"

[resources]                       # what changes only speed, and how strictly the process that works is shut in
confinement = "preferred"         # "required": no work where this machine cannot deny it network, keys and ledger; see fedrad-site doctor
device = "auto"
threads = 0                       # 0: all cores
micro_batch = 256                 # images at a time
workers = 1                       # processes that read DICOM

[receive]                         # fedrad-site receive: your PACS or a modality sends images to this machine
address = "127.0.0.1"             # of this machine; "0.0.0.0": all of its addresses
port = 11112
title = "FEDRAD"                  # AE title that they call
callers = []                      # AE titles of those who may send; empty: nobody
associations = 8                  # at a time
"""


def render(
    *,
    name: str,
    epsilon: float,
    delta: float,
    validation_fraction: float,
    max_epsilon: float = 8.0,
    metrics: Metrics = "noised",
    unbounded: bool = False,
    declared_size: int = 0,
    cohort: str = "cohort",
    server: str = "",
    authority: str = "keys/authority.pem",
) -> str:
    return TEMPLATE.format(
        name=name,
        cohort=cohort,
        server=server,
        authority=authority,
        epsilon=float(epsilon),
        delta=float(delta),
        validation_fraction=float(validation_fraction),
        max_epsilon=float(max_epsilon),
        metrics=metrics,
        declared_size=declared_size,
        unbounded="true" if unbounded else "false",
    )
