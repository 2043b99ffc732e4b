"""What Gaussian noise costs in (epsilon, delta). Events are values; what they cost is computed here and nowhere else.

Two consumers (privacy.md, rule 4): the reported number of a run whose parameters are fixed in advance is PRV's upper bound; the ceiling
over runs, whose parameters are chosen after earlier answers, is a Rényi filter at one order. Opacus is imported only when PRV is asked,
or a Rényi order that is no whole number.
"""

from fedrad_common.accounting.calibration import calibrate
from fedrad_common.accounting.composition import SiteAccount, Together, at_several_sites
from fedrad_common.accounting.events import NUMERIC_SHARE, GaussianEvent, exact_delta, rounded_up
from fedrad_common.accounting.prv import epsilon_prv
from fedrad_common.accounting.renyi import epsilon_rdp, rdp
from fedrad_common.accounting.renyi_filter import filter_budget, filter_order

__all__ = [
    "NUMERIC_SHARE",
    "GaussianEvent",
    "SiteAccount",
    "Together",
    "at_several_sites",
    "calibrate",
    "epsilon_prv",
    "epsilon_rdp",
    "exact_delta",
    "filter_budget",
    "filter_order",
    "rdp",
    "rounded_up",
]
