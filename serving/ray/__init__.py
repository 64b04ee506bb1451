"""A Ray Serve deployment of bundles: OpenAI's images API and calls from Python, on as many replicas as the load needs.

    from ray import serve

    from diffoundry.serving.ray import images_app

    serve.run(images_app("sd15.bundle", max_replicas=4, num_cpus=4))

Needs the extra `ray`.
"""

from diffoundry.serving.ray.application import build, images_app

__all__ = ["build", "images_app"]
