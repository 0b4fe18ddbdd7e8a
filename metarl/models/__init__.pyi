from .adapted_policy import AdaptedPolicy as AdaptedPolicy
from .episodes import Episode as Episode
from .policy import MetaPolicy as MetaPolicy
from .recorder import Recorder as Recorder
from .saved import Saved as Saved
from .saved import read_adapted as read_adapted
from .saved import write_adapted as write_adapted
from .spaces import Spaces as Spaces
