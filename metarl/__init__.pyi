from . import envs as envs
from .experiments import train as train
from .experiments.load import load as load
from .experiments.load import load_adapted as load_adapted
from .rl.methods import register_method as register_method

__version__: str
