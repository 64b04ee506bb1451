"""ZImageTransformer2DModel of Z-Image Omni as a traceable module: one sequence of texts, images and features."""

from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers.models.transformers import transformer_z_image

from diffoundry.exporter.components.z_image_transformer_module import Tokens, ZImageModule, attend, pad_image
from diffoundry.runtime.models.z_image_omni_transformer_2d import (
    ImageGrid,
    OmniFeeds,
    feature_feeds,
    latent_feeds,
    patch_features,
)
from diffoundry.runtime.models.z_image_transformer_2d import (
    PATCH,
    PATCH_KEY,
    PENDING,
    TOKEN_MULTIPLE,
    pack_latents,
)

__all__ = ["ZImageOmniModule"]

_PROCESSOR = transformer_z_image.ZSingleStreamAttnProcessor


class ZImageOmniModule(ZImageModule):
    """Predicts the negative velocity of the noisy image. diffusers: `ZImageTransformer2DModel.forward`, omni mode.

    Tokens of the noisy image come first, then those of other images, the padding that every graph appends to the first,
    the text, and features. Masks say which tokens are hidden, which are the learned ones of padding, and which are
    modulated by the time of the call; others are modulated by time 1, without noise.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: tokens, masks and positions of all that the network sees."""
        images, found = passed["x"], passed.get("siglip_feats")
        batch, (*others, _) = len(images), images[0]
        features = [_array(one) for one in (found or [None])[0] or [] if one is not None]
        latents = [_array(one).transpose(1, 0, 2, 3) for one in others]
        target = pack_latents(np.concatenate([_array(row[-1]).transpose(1, 0, 2, 3) for row in images]))
        grids = [
            ImageGrid(*(side // PATCH for side in image.shape[2:]), *feature.shape[:2])
            for image, feature in zip(latents, features, strict=True)
        ]
        rows, columns = target.shape[1:3]
        rotary, config = network.rope_embedder, network.config
        feeds = OmniFeeds(rotary.axes_dims, rotary.theta, grids, rows, columns)
        arrays = {
            "hidden_states": target,
            **feeds.text_feeds([[_array(part) for part in parts] for parts in passed["cap_feats"]]),
            **latent_feeds(latents, batch, config.in_channels),
            **feature_feeds([patch_features(one) for one in features], batch, config.siglip_feat_dim),
            "padding_mask": (np.arange(PENDING) < -rows * columns % TOKEN_MULTIPLE).astype(np.float32),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        with (
            mock.patch.object(_PROCESSOR, "__call__", attend),
            mock.patch.object(transformer_z_image, "select_per_token", _select_per_token),
        ):
            return self._run_omni(**keywords)

    def _run_omni(self, hidden_states: torch.Tensor, t: torch.Tensor, **feeds: torch.Tensor) -> Any:
        """Compute the output; arguments as the component's inputs."""
        network: Any = self.model
        # Of the call, and no constant, whose layers would be folded and have no LoRAs.
        both = self.embed_time(torch.cat([t, t * 0.0 + 1.0]))
        times = both[:1], both[1:]
        place = hidden_states.shape[1:3]
        image, noisy = self._embed_images(hidden_states, feeds)
        states = image.states
        for block in network.noise_refiner:
            states = block(states, image.scores, image.angles, None, noisy, *times)
        image = image._replace(states=states)
        text = self.refine_caption(self._embed_tokens("encoder", "text_rotary", feeds))
        feature = self._embed_tokens("feature", "feature", feeds)
        states = feature.states
        for block in network.siglip_refiner:
            states = block(states, feature.scores, feature.angles)
        feature = feature._replace(states=states)
        joined = _join(image, text, feature)
        noise = torch.cat([noisy, feeds["encoder_noise_mask"], feeds["feature_noise_mask"]], dim=1)
        states = joined.states
        for block in network.layers:
            states = block(states, joined.scores, joined.angles, None, noise, *times)
        velocity = network.all_final_layer[PATCH_KEY](states[:, : place[0] * place[1]], c=times[0])
        return {self.outputs[0]: velocity.reshape(states.shape[0], *place, -1)}

    def _embed_images(
        self, hidden_states: torch.Tensor, feeds: Mapping[str, torch.Tensor]
    ) -> tuple[Tokens, torch.Tensor]:
        """Return tokens of the noisy image, of others, and of the padding of the first; and 1 for those with noise.

        Tokens of all images are embedded at once, so that no layer runs on none where there are no others.
        """
        network: Any = self.model
        rows, own = torch.ones_like(hidden_states[:, :, :, 0]).flatten(1, 2), feeds["reference_token_mask"]
        tokens = torch.cat([hidden_states.flatten(1, 2), feeds["reference_hidden_states"]], dim=1)
        mask, token = torch.cat([rows, own], dim=1), network.x_pad_token
        states = pad_image(_with_padding(network.all_x_embedder[PATCH_KEY](tokens), mask, token), token)
        padding = feeds["padding_mask"].expand(hidden_states.shape[0], -1)
        others = torch.zeros_like(own)
        seen = torch.cat([rows, 1.0 - others, padding], dim=1)
        noisy = torch.cat([rows, others, torch.ones_like(padding)], dim=1)
        cos, sin = (
            torch.cat(
                [
                    feeds[f"rotary_{name}"].flatten(1, 2),
                    feeds[f"reference_{name}"],
                    _constant(feeds[f"rotary_{name}"], value),
                ],
                dim=1,
            )
            for name, value in (("cos", 1.0), ("sin", 0.0))
        )
        return Tokens(states, seen, (cos, sin)), noisy

    def _embed_tokens(self, name: str, table: str, feeds: Mapping[str, torch.Tensor]) -> Tokens:
        """Return the tokens of the text, "encoder", or of features, "feature"."""
        network: Any = self.model
        embed, token = (
            (network.cap_embedder, network.cap_pad_token)
            if name == "encoder"
            else (network.siglip_embedder, network.siglip_pad_token)
        )
        states = _with_padding(embed(feeds[f"{name}_hidden_states"]), feeds[f"{name}_token_mask"], token)
        return Tokens(states, feeds[f"{name}_attention_mask"], (feeds[f"{table}_cos"], feeds[f"{table}_sin"]))


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().numpy()
    return array


def _with_padding(states: torch.Tensor, own: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Replace states (B, tokens, D) of padding by the learned token."""
    mask = own[:, :, None]
    return states * mask + token * (1.0 - mask)


def _constant(table: torch.Tensor, value: float) -> torch.Tensor:
    """Return the angles of the padding of the noisy image, which is at the origin, (B, 31, half a head)."""
    return torch.full_like(table[:, :1, 0], value).expand(-1, PENDING, -1)


def _join(*parts: Tokens) -> Tokens:
    cos, sin = (torch.cat([part.angles[index] for part in parts], dim=1) for index in range(2))
    states, seen = (
        torch.cat(tensors, dim=1) for tensors in zip(*((one.states, one.seen) for one in parts), strict=True)
    )
    return Tokens(states, seen, (cos, sin))


def _select_per_token(
    value_noisy: torch.Tensor,
    value_clean: torch.Tensor,
    noise_mask: torch.Tensor,
    seq_len: int,  # noqa: ARG001
) -> torch.Tensor:
    """Compute `select_per_token` with numbers alone, and without a copy of both values for each token."""
    mask = noise_mask[:, :, None]
    return value_noisy[:, None] * mask + value_clean[:, None] * (1.0 - mask)
