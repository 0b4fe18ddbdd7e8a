from . import envs as envs
from .experiments import train as train
from .experiments.load import load as load
from .rl.methods import register_method as register_method

__version__: str
