"""The commented `site.toml` that `fedrad-site init` writes: the hospital's own file, meant to be read and changed by a person."""

TEMPLATE = """\
# A fedrad site. What stands here is decided by the hospital; nothing that a coordinator sends can widen it.
format = "fedrad-site-1"
cohort = "{cohort}"                 # folder of the processed images, relative to this file

[site]
name = "{name}"

[coordinator]                     # the one host and port that this node connects to, outbound only
server = "{server}"                       # HOST:PORT; empty: none yet
authority = "keys/authority.pem"  # whose certificates are believed; empty: this machine's own list

[privacy]                         # fixed when the ledger was opened; changing it here later changes nothing
epsilon = {epsilon!r}                    # ceiling per patient, over all runs and coordinators, for the site's lifetime
delta = {delta!r}                     # at most 1 / (10 x declared size)
validation_epsilon = 10.0         # ceiling of the validation patients' own line
validation_fraction = {validation_fraction!r}         # of patients, never trained on, in any protocol

[policy]                          # the most that is accepted; unknown means no
tasks = ["classification"]
models = []                       # empty: every registered model
max_parameters = 20000000
max_epsilon_per_run = {max_epsilon!r}
min_noise_multiplier = 0.5
exact_metrics = {exact}             # let exact validation histograms leave, marked "no bound"
unbounded = {unbounded}                 # let runs without privacy train here; the ledger says "no bound" for ever

[resources]                       # speed only
device = "auto"
threads = 0                       # 0: all cores
micro_batch = 256                 # images at a time
workers = 1                       # processes that read DICOM
"""


def render(
    *,
    name: str,
    epsilon: float,
    delta: float,
    validation_fraction: float,
    max_epsilon: float = 8.0,
    exact_metrics: bool = False,
    unbounded: bool = False,
    cohort: str = "cohort",
    server: str = "",
) -> str:
    return TEMPLATE.format(
        name=name,
        cohort=cohort,
        server=server,
        epsilon=float(epsilon),
        delta=float(delta),
        validation_fraction=float(validation_fraction),
        max_epsilon=float(max_epsilon),
        exact="true" if exact_metrics else "false",
        unbounded="true" if unbounded else "false",
    )
