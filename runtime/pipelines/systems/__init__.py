"""Systems: pipelines with a loop, a space or stages of their own, one file each. See `runtime.pipelines.staged`."""
