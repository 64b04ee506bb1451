"""Tables of families, by kind of pipeline; `runtime.pipelines.registry` joins them."""
