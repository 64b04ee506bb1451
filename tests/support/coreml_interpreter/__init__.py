"""Runs saved Core ML packages without Core ML, to prove them on machines that are no Mac.

Written from the MIL operator reference and the storage format's header, sharing nothing with the lowering that it
checks, nor with coremltools' builder, passes or writer: of coremltools only the generated protobuf classes are used.
"""
