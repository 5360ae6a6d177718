"""Segment, Export and Evaluate: each asks, calls a program of fctl, and hands over what that wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsMapLayer,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingOutputHtml,
    QgsProcessingOutputNumber,
    QgsProcessingOutputRasterLayer,
    QgsProcessingUtils,
)
from qgis.PyQt.QtGui import QIcon

from .calls import CallError, CancelledError, Progress, answer_in, call, folder_of, program_in
from .options import EVALUATE, EXPORT, SEGMENT, Option, words_of
from .pages import miou_in, page_of
from .parameters import Given, parameter_of

FOLDER_SETTING = "FCTL_BIN"
"""The name of the setting that says where the programs are."""

_WARNING = "warning: "
_ICON = Path(__file__).with_name("icon.svg")


class _Algorithm(QgsProcessingAlgorithm):
    """What the three have in common.

    Attributes:
        identifier: Its name for QGIS.
        title: Its name for people.
        program: What it calls.
        options: What it asks.
        always: Words that the program always gets.
        about: What the dialog says of it.
    """

    identifier = title = program = about = ""
    options: tuple[Option, ...] = ()
    always: tuple[str, ...] = ("--progress-every", "1")

    def name(self) -> str:
        """What the identifier ends with."""
        return self.identifier

    def displayName(self) -> str:
        """What the toolbox shows."""
        return self.title

    def icon(self) -> QIcon:
        """The picture in the toolbox."""
        return QIcon(str(_ICON))

    def shortHelpString(self) -> str:
        """What the dialog shows beside the widgets."""
        return self.about

    def createInstance(self) -> _Algorithm:
        """A new one of the kind."""
        return type(self)()

    def initAlgorithm(self, configuration: Mapping[str, object] | None = None) -> None:
        """Declare what is asked."""
        for option in self.options:
            self.addParameter(parameter_of(option))

    def canExecute(self) -> tuple[bool, str]:
        """Whether the program is there, and what to do where it is not."""
        try:
            self._program()
        except CallError as error:
            return False, str(error)
        return True, ""

    def processAlgorithm(
        self, parameters: Mapping[str, object], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, object]:
        """Call the program.

        Raises:
            QgsProcessingException: It failed; the message is its own line.
        """
        values = Given(self, parameters, context, feedback).values(self.options)
        words = [*words_of(self.options, values), *self.always]
        try:
            command = [self._program(), *words]
            feedback.pushCommandInfo(" ".join(command))
            lines = call(
                command, on_progress=_Bar(feedback).show,
                on_message=lambda line: _tell(line, feedback), on_line=lambda line: self._print(line, feedback),
                is_cancelled=feedback.isCanceled,
            )  # fmt: skip
        except CallError as error:
            raise QgsProcessingException(str(error)) from None
        except CancelledError:
            feedback.pushInfo(f"{self.program} was cancelled")
            return {}
        feedback.setProgress(100)
        return self._results(values, lines, context)

    def _program(self) -> str:
        return program_in(folder_of(ProcessingConfig.getSetting(FOLDER_SETTING)), self.program)

    def _print(self, line: str, feedback: QgsProcessingFeedback) -> None:
        """Show a line of standard output."""
        feedback.pushConsoleInfo(line)

    def _results(
        self, values: Mapping[str, object], lines: list[str], context: QgsProcessingContext
    ) -> dict[str, object]:
        """What the algorithm hands over, by names of outputs.

        Args:
            values: What was chosen.
            lines: What the program printed on standard output.
            context: Told of layers to load.
        """
        return {option.name: values[option.name] for option in self.options if option.is_output and values[option.name]}


class Segment(_Algorithm):
    """`fctl-run` on one raster."""

    identifier, title, program, options = "segment", "Segment", "fctl-run", SEGMENT
    always = (*_Algorithm.always, "--json")
    about = (
        "Segments a raster of any size into a mask of class ids with colours, names and the raster's georeference. "
        "Every patch is seen together with its surroundings.\n\n"
        "Probabilities and confidence lie beside the mask, as MASK_prob.tif and MASK_confidence.tif. A run that was "
        "cancelled goes on where it was with 'Go on where an earlier run of the same mask ended'."
    )

    def initAlgorithm(self, configuration: Mapping[str, object] | None = None) -> None:
        """Declare what is asked, and the rasters whose places the program chooses."""
        super().initAlgorithm(configuration)
        for output, _, title in _BESIDE:
            self.addOutput(QgsProcessingOutputRasterLayer(output, title))

    def _print(self, line: str, feedback: QgsProcessingFeedback) -> None:
        """The answer is for the plugin; people see the shares of classes."""
        shares = answer_in([line]).get("shares")
        if isinstance(shares, dict):
            feedback.pushInfo(", ".join(f"{name} {share:.1%}" for name, share in shares.items()))

    def _results(
        self, values: Mapping[str, object], lines: list[str], context: QgsProcessingContext
    ) -> dict[str, object]:
        """The outputs, of which probabilities and confidence are loaded where the mask is."""
        results = super()._results(values, lines, context)
        mask, written = str(values["MASK"]), answer_in(lines).get("outputs")
        is_loaded = context.willLoadLayerOnCompletion(mask)
        if is_loaded:
            context.layerToLoadOnCompletionDetails(mask).setPostProcessor(_STYLE_BESIDE)
        for output, sink, title in _BESIDE:
            if isinstance(written, dict) and sink in written:
                path = results[output] = str(written[sink])
                if is_loaded:
                    details = QgsProcessingContext.LayerDetails(
                        title, context.project(), output, QgsProcessingUtils.LayerHint.Raster
                    )
                    context.addLayerToLoadOnCompletion(path, details)
        return results


_BESIDE = (
    ("PROBABILITY_LAYER", "probabilities", "Probabilities"), ("CONFIDENCE_LAYER", "confidence", "Confidence"),
)  # fmt: skip
"""Rasters beside the mask: the output in QGIS, its name in the answer of `fctl-run --json`, and its title."""


class _StyleBeside(QgsProcessingLayerPostProcessorInterface):
    """Gives a layer the style in the .qml beside its file, which Processing does not look for."""

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Style a layer that was loaded."""
        layer.loadDefaultStyle()


_STYLE_BESIDE = _StyleBeside()  # QGIS does not keep it from being collected


class Export(_Algorithm):
    """`fctl-export` of a network or a bundle."""

    identifier, title, program, options = "export", "Export", "fctl-export", EXPORT
    about = (
        "Exports a network to a verified bundle that runs without PyTorch; or makes of a bundle another one: in fp16 "
        "or int8, with TensorRT engines, for Triton, or with other colours. The environment needs fctl's extra "
        "'export', for int8 of a bundle 'quant'."
    )

    def checkParameterValues(self, parameters: Mapping[str, object], context: QgsProcessingContext) -> tuple[bool, str]:
        """Whether one of the two inputs was given."""
        if bool(parameters.get("NETWORK")) == bool(parameters.get("BUNDLE")):
            return False, "give either a network or a bundle"
        fine, why = super().checkParameterValues(parameters, context)
        return fine, why


class Evaluate(_Algorithm):
    """`fctl-eval` on a folder of labelled images."""

    identifier, title, program, options = "evaluate", "Evaluate", "fctl-eval", EVALUATE
    about = (
        "Measures what bundles score on labelled images: confusion matrices, IoU, F1 and accuracy, and how far runs "
        "agree. Every combination of what is chosen is a run. The environment needs fctl's extra 'report'."
    )

    def initAlgorithm(self, configuration: Mapping[str, object] | None = None) -> None:
        """Declare what is asked, and what is read from the report."""
        super().initAlgorithm(configuration)
        self.addOutput(QgsProcessingOutputNumber("MIOU", "Mean IoU of the first run"))
        self.addOutput(QgsProcessingOutputHtml("PAGE", "Scores"))

    def _results(
        self, values: Mapping[str, object], lines: list[str], context: QgsProcessingContext
    ) -> dict[str, object]:
        """The folder, the first score, and a page for QGIS's Results Viewer."""
        folder = Path(str(values["OUT"]))
        page = Path(QgsProcessingUtils.generateTempFilename("scores.html"))  # the folder is for the report alone
        page.write_text(page_of(lines, folder), encoding="utf-8")
        return super()._results(values, lines, context) | {"MIOU": miou_in(folder), "PAGE": str(page)}


class _Bar:
    """Shows progress in a dialog, whose log gets a line for what is new and for every twentieth of it.

    Args:
        feedback: The dialog.
    """

    def __init__(self, feedback: QgsProcessingFeedback) -> None:
        self._feedback = feedback
        self._told = ("", 0)

    def show(self, progress: Progress) -> None:
        """Show how far the program is."""
        self._feedback.setProgress(progress.percent)
        reached = (progress.name, int(progress.percent / 5))
        if reached != self._told:
            self._told = reached
            self._feedback.setProgressText(progress.line)


def _tell(line: str, feedback: QgsProcessingFeedback) -> None:
    """Show a line of the log."""
    if line.startswith(_WARNING):
        feedback.pushWarning(line[len(_WARNING) :])
    else:
        feedback.pushInfo(line)


ALGORITHMS: tuple[type[_Algorithm], ...] = (Segment, Export, Evaluate)
"""What the provider offers."""
