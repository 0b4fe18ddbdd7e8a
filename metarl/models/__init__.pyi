from .saved import Saved as Saved
from .saved import read_adapted as read_adapted
from .saved import write_adapted as write_adapted
