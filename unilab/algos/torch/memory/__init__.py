"""What a run will allocate, item by item, before anything is: so that what does not fit is refused.

Sizes of arrays follow from the configuration. The fixed cost of the processes is measured once on each machine
(``process_cost``). Two kinds of figures are neither: how much the C allocator keeps or loses to fragmentation was
fitted to measured runs, and what CUDA costs is assumed and was never measured by us (``items.CUDA_CONTEXT_DEVICE`` and
below).
"""

from unilab.algos.torch.memory.appo import estimate_appo
from unilab.algos.torch.memory.items import EnvSizes, env_sizes
from unilab.algos.torch.memory.offpolicy import estimate_offpolicy
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
