from .environments import sb3_env as sb3_env
from .models import advance as advance
from .models import make_model as make_model
from .policies import NO_PARAMS as NO_PARAMS
from .policies import policy_of as policy_of
from .policies import ppo_from as ppo_from
from .policies import sb3_policy as sb3_policy
