"""Optional compiled attention, loaded from this package's folder where it was built."""

from diffoundry.runtime.native.kernel import AttentionKernel, attention_kernel
from diffoundry.runtime.native.library import attention_library, describe_attention

__all__ = ["AttentionKernel", "attention_kernel", "attention_library", "describe_attention"]
