"""What a run will allocate, item by item, before anything is: so that what does not fit is refused.

Each object says beside its own code how many bytes it will take; here they are added up. What a process costs beside
its data, what the C allocator keeps of freed blocks included, is measured once on each machine (``processes``). What
CUDA and Ray cost is assumed.
"""

from unilab.algos.torch.memory.appo import estimate_appo
from unilab.algos.torch.memory.offpolicy import estimate_offpolicy
from unilab.envs.sizes import EnvSizes, env_sizes
from unilab.ipc.memory_budget import BudgetItem, MemoryAvailable, MemoryBudget, MemoryBudgetError

__all__ = [
    "BudgetItem",
    "EnvSizes",
    "MemoryAvailable",
    "MemoryBudget",
    "MemoryBudgetError",
    "env_sizes",
    "estimate_appo",
    "estimate_offpolicy",
]
