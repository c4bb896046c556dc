"""The application `segmentation`: a site's own model, described by the `bundle.toml` of its folder."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom.uid import generate_uid
from torch import Tensor, nn

from inference.applications.segmentation.grid import foreground_box, masks_to_source, model_grid, normalize
from inference.applications.segmentation.network import declared_network
from inference.contract.application import Engine, Progress
from inference.contract.bundle import Bundle, Label, as_code, read_bundle
from inference.contract.concepts import CM3, VOLUME
from inference.contract.findings import Algorithm, Findings, Measurement, Segment
from inference.contract.manifest import Manifest, weights_path, weights_sha256
from inference.contract.series_input import SeriesInput, read_input
from inference.volumes.geometry import Mask
from inference.volumes.measurements import largest_component, volume_ml
from inference.volumes.resampling import resample_to_grid
from inference.volumes.volume import Volume
from storage.errors import ModelRefused


def create(manifest: Manifest) -> "SegmentationApplication":
    return SegmentationApplication(manifest, read_bundle(manifest.options))


class SegmentationApplication:
    def __init__(self, manifest: Manifest, bundle: Bundle) -> None:
        self.manifest = manifest
        self._bundle = bundle
        self._sha256 = weights_sha256(manifest)
        self.algorithm = Algorithm(
            name=bundle.algorithm,
            version=manifest.version,
            manufacturer=bundle.manufacturer,
            weights_sha256=self._sha256,
            training_data=bundle.training_data,
        )
        self.research = bundle.research

    def run(self, inputs: Mapping[str, SeriesInput], engine: Engine, progress: Progress) -> Findings:
        """Outline the structures that the bundle's labels name, on the grid of the input series."""
        started_at = datetime.now(UTC)
        (series,) = inputs.values()
        progress("reading", 0.0)
        (volume,) = read_input(series, self.manifest.inputs)
        progress("preparing", 0.1)
        grid = model_grid(volume.geometry, self._bundle.preprocessing)
        image = normalize(
            # A map has no number where its scanner measured none; the network sees nothing there.
            resample_to_grid(np.nan_to_num(volume.array), volume.geometry.affine, grid.affine, grid.shape, order=1),
            self._bundle.preprocessing.normalization,
        )
        progress("segmenting", 0.2)
        found = self._segment(image, engine)
        progress("measuring", 0.9)
        masks = masks_to_source(self._cleaned(found), grid, volume.geometry)
        return self._findings(volume, masks, started_at)

    def _segment(self, image: NDArray[np.float32], engine: Engine) -> list[Mask]:
        """Return the mask of every label in the order of the bundle, on the grid of `image`."""
        preprocessing = self._bundle.preprocessing
        box = (slice(None), slice(None), slice(None))
        if preprocessing.foreground_threshold is not None:
            box = foreground_box(image, preprocessing.foreground_threshold, preprocessing.foreground_margin)
        logits = self._logits(engine, torch.from_numpy(np.ascontiguousarray(image[box]))[None, None])
        channels = logits.shape[1]
        if over := [label.value for label in self._bundle.labels if label.value >= channels]:
            raise ModelRefused(f"the model has {channels} output channels; the labels name channel {max(over)}")
        masks = []
        winner = logits[0].argmax(0).numpy() if self._bundle.model.output == "softmax" else None
        for label in self._bundle.labels:
            mask = np.zeros(image.shape, bool)
            mask[box] = winner == label.value if winner is not None else logits[0, label.value].numpy() > 0
            masks.append(mask)
        return masks

    def _logits(self, engine: Engine, image: Tensor) -> Tensor:
        described = self._bundle.model
        model = self._load(engine)
        if described.inference == "whole" or described.roi_size is None:
            return engine.whole(model, image)
        return engine.sliding_window(model, image, described.roi_size, described.overlap)

    def _load(self, engine: Engine) -> nn.Module:
        path, network = weights_path(self.manifest), self._bundle.model.network
        if network is None:
            return engine.load_torchscript(path, self._sha256)
        return engine.load_state(declared_network(self.manifest.folder / network), path, self._sha256)

    def _cleaned(self, masks: Sequence[Mask]) -> list[Mask]:
        keep = self._bundle.postprocessing.keep_largest_component
        if keep == "each":
            return [largest_component(mask) for mask in masks]
        if keep == "all":
            together = largest_component(np.logical_or.reduce(masks))
            return [mask & together for mask in masks]
        return list(masks)

    def _findings(self, volume: Volume, masks: Sequence[Mask], started_at: datetime) -> Findings:
        bundle = self._bundle
        smallest = bundle.postprocessing.minimum_volume_ml
        return Findings(
            source=volume,
            inputs=(volume,),
            segments=tuple(
                self._segment_of(label, mask, volume)
                for label, mask in zip(bundle.labels, masks, strict=True)
                if mask.any() and volume_ml(mask, volume.geometry) >= smallest
            ),
            algorithm=self.algorithm,
            title=self.manifest.title,
            started_at=started_at,
            notes=bundle.notes,
            research=self.research,
        )

    def _segment_of(self, label: Label, mask: Mask, volume: Volume) -> Segment:
        return Segment(
            label=label.name,
            mask=mask,
            category=as_code(label.category),
            type=as_code(label.type),
            modifier=None if label.modifier is None else as_code(label.modifier),
            color=label.color,
            tracking_id=label.name,
            tracking_uid=str(generate_uid(entropy_srcs=[volume.series_instance_uid, self.manifest.name, label.name])),
            measurements=(Measurement(VOLUME, volume_ml(mask, volume.geometry), CM3),),
        )
