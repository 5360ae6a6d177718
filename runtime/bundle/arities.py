"""How many inputs and outputs operators have, of ONNX and of those that ONNX Runtime adds.

Engines reach for an input before they count them. Each paragraph has what some operators share, then their names:
"2-3>1" stands for two inputs, of which none may be left out, up to three, and one output; "1->1" for one or more. What
holds from a later opset on follows with its number. The tables are `onnx.defs` up to opset 28, and of ONNX Runtime 1.32
what neither reads files nor generates text; tests/export/test_graphs.py compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

_ONNX = """
0-1>1 | Optional
0>1 | Constant RandomNormal RandomUniform SequenceEmpty
1-2>1 | SequenceErase SplitToSequence Trilu
1-2>1 20:1-3>1 | DFT
1-2>1- 2:1>1- 13:1-2>1- | Split
1->1 | Concat Einsum Max Mean Min SequenceConstruct Sum
1->1- | SequenceMap
1>1 | Abs Acos Acosh ArgMax ArgMin Asin Asinh Atan Atanh AveragePool Bernoulli BitCast BitwiseNot BlackmanWindow
  Cast Ceil Celu ConcatFromSequence ConstantOfShape Cos Cosh DepthToSpace Det Elu Erf Exp EyeLike Flatten Floor Gelu
  GlobalAveragePool GlobalLpPool GlobalMaxPool HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
  ImageDecoder IsInf IsNaN LRN LeakyRelu Log LogSoftmax LpNormalization LpPool MeanVarianceNormalization Mish
  Multinomial Neg NonZero Not OptionalGetElement RandomNormalLike RandomUniformLike Reciprocal RegexFullMatch Relu
  Round Selu SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Softmax Softplus Softsign SpaceToDepth Sqrt
  StringNormalizer Swish Tan Tanh TfIdfVectorizer ThresholdedRelu Transpose
1>1 10:3-5>1 | Slice
1>1 11:1-3>1 | Clip
1>1 11:2-3>1 18:2-4>1 | Pad
1>1 13:1-2>1 | ReduceSum Squeeze
1>1 13:2>1 | Unsqueeze
1>1 18:0-1>1 | OptionalHasElement
1>1 18:1-2>1 | ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
  ReduceSumSquare
1>1 5:2>1 | Reshape
1>1 8:1>1-2 | MaxPool
1>1 9:2>1 | Upsample
1>1- | If
1>1-2 12:1-3>1-2 | Dropout
1>1-4 | Unique
1>2 | StringSplit
1>2 10:2>2 | TopK
1>3 | DynamicQuantizeLinear
2-3>1 | Conv ConvTranspose DequantizeLinear MaxUnpool NegativeLogLikelihoodLoss QuantizeLinear SequenceInsert
  TensorScatter
2-3>1-2 | SoftmaxCrossEntropyLoss
2-3>1-3 | LayerNormalization
2-4>1 | ConvInteger MatMulInteger STFT
2-4>2 | CausalConvWithState
2-5>1 | NonMaxSuppression
2->1- 9:1->1- | Scan
2>1 | Add AffineGrid And BitShift BitwiseAnd BitwiseOr BitwiseXor CastLike CenterCropPad Compress CumProd CumSum Div
  Equal Expand Gather GatherElements GatherND Greater GreaterOrEqual GridSample Less LessOrEqual MatMul MaxRoiPool
  Mod Mul Or PRelu Pow RMSNormalization ReverseSequence SequenceAt StringConcat Sub SwiGLU Xor
2>1 11:3-4>1 13:1-4>1 | Resize
3-4>1 | RotaryEmbedding
3-5>1 | DeformConv
3-6>0-2 | RNN
3-6>1-4 24:3-7>1-4 | Attention
3-6>2 | LinearAttention
3-6>2 3:3-6>0-2 | GRU
3-8>0-3 | LSTM
3->1- 11:2->1- | Loop
3>1 | Col2Im GroupNormalization InstanceNormalization OneHot Range RoiAlign Scatter ScatterElements ScatterND Where
3>1 11:2-3>1 | Gemm
3>1 6:2>1 | Tile
5>1 | MelWeightMatrix
5>1-5 14:5>1-3 | BatchNormalization
8-9>1 | QLinearConv
8>1 | QLinearMatMul
"""
"""Operators of ONNX."""

_MICROSOFT = """
1-10>1-4 | MultiHeadAttention
1-11>1-3 | GatedDeltaNet
1-11>1-4 | DecoderMaskedMultiHeadAttention
1-2>1 | BranchwiseRMSNorm FastGelu ScaledSiLU SwiGLU Trilu
1-3>1-2 | BitmaskDropout
1->1 | IsAllFinite
10>3-5 | Mamba2Verify
11-12>3-4 | MatMulNBitsQkv
11-20>1-4 | DynamicSparseAttention
11-22>1-3 | SparsePagedAttention
12>0-3 | DynamicQuantizeLSTM
12>1-3 | DecoderAttention
14>1 | QOrderedLongformerAttention
16-22>6-9 | PackedSparseAttentionIndexer
17-20>1 | QOrderedAttention
18>2 | QEmbedLayerNormalization
1>1 | DynamicTimeWarping Gelu Inverse Irfft MurmurHash3 NhwcMaxPool QuickGelu ReduceSumInteger Rfft SampleOp
  UnfoldTensor
1>3 | QuantizeBFP Unique
2-3>0-3 | MoEGroupRouter
2-3>1 | DequantizeLinear FusedGemm GemmFastGelu MatMulPacked NhwcConv Pad QuantizeLinear Range
2-4>1 | ConvTransposeWithDynamicPads FusedConv NhwcFusedConv TorchEmbedding
2-4>2-3 | CausalConvWithState
2-5>1-2 | BiasDropout BitmaskBiasDropout
2-6>1 | GemmFloat8
2-7>1-2 | Attention
2>1 | BiasGelu BiasSoftmax BiasSplitGelu CDist ComplexMul ComplexMulConj DequantizeWithOrder ExpandDims FusedMatMul
  FusedMatMulActivation GatherND GatherPacked GridSample HyperConnectionPreMix MatMulInteger16 MaxpoolWithMask
  NGramRepeatBlock QuantizeWithOrder RestorePadding SparseToDenseMatMul TransposeMatMul
2>2 | RouterGateUpProj
2>4 | RemovePadding
3-14>0-3 | AttnLSTM
3-4>1 | GatedAdd GatherBlockQuantized HyperConnectionPostMix MulInteger
3-4>1-2 | LinearAttentionGate
3-4>1-4 | SkipSimplifiedLayerNormalization
3-4>2 | BifurcationDetector
3-5>1 | DynamicQuantizeMatMul MatMulBlockQuantizedFp8Weight
3-5>1-4 | SkipLayerNormalization
3-6>1 | MatMulNBits
3-6>2 | LinearAttention
3-7>1-2 | NGramHashMapping
3-7>3 | PackedSparseAttentionIndexerMerge
3->1 | QLinearConcat
3>1 | BiasAdd DequantizeBFP GatedRMSNorm GroupNorm MatMulBnb4 MatMulFpQ4 QOrderedGelu RelativePositionBias
4-10>1-4 | VarlenNGramHashMapping
4-5>1 | QLinearAveragePool QLinearLeakyRelu QLinearReduceMean QLinearSigmoid
4-5>1-2 | SkipGroupNorm
4-6>1 | MatMulBlockQuantizedFp4Weight
4-7>1 | MatMulIntegerToFloat
4>1 | ConvStateReplay CropAndResize GatedDeltaNetStateReplay MRotaryEmbedding RotaryEmbedding WordConvEmbedding
5-6>1 | MoEPacked PackedAttention
5-6>1-2 | EngramGate RMSNormRotary
5-7>2-3 | HyperConnectionLowRankMix
5-8>1 | MoE QOrderedMatMul
5-8>2-3 | VarlenCausalConvWithState
5-9>1-2 | QAttention
5>1 | QLinearGlobalAveragePool QLinearSoftmax QOrderedLayerNormalization
5>2 | GemmaRotaryEmbedding
6-21>1 | QMoE
6-7>1 | GatedRelativePositionBias PackedMultiHeadAttention
6-9>1 | QGemm
7-17>1-4 | GroupQueryAttention
7-8>1 | QLinearAdd QLinearMul
7-9>1-3 | EmbedLayerNormalization
7-9>2 | DecoderMaskedSelfAttention
7>1 | LongformerAttention MatMulNBitsQLoRA
7>3 | SpeculativePrefixCommit
8-14>2-3 | SparseAttentionIndexer
8-17>1-3 | PagedAttention
8-9>1 | QLinearConv
8-9>1-2 | MatMulNBitsMlp
9-11>3 | SparseAttention
9>1 | QLinearWhere
"""
"""Operators of com.microsoft."""


_Arity = tuple[range, range]


def arity(domain: str, name: str, opset: int) -> _Arity | None:
    """How many inputs and outputs an operator has.

    Args:
        domain: The operator's domain: "" for ONNX's own.
        name: Its name.
        opset: The version of the domain's operators.

    Returns:
        The numbers of inputs, of which the least may not be left out, and of outputs; None for an unknown operator.
    """
    versions = _table(domain).get(name)
    return next((found for since, found in reversed(versions) if since <= opset), versions[0][1]) if versions else None


def operators(domain: str) -> frozenset[str]:
    """The names of the operators of a domain that graphs may use."""
    return frozenset(_table(domain))


@cache
def _table(domain: str) -> dict[str, list[tuple[int, _Arity]]]:
    """By name, from which opset on an operator has how many inputs and outputs."""
    return dict(_entries({"": _ONNX, "com.microsoft": _MICROSOFT}.get(domain, "")))


def _entries(table: str) -> Iterator[tuple[str, list[tuple[int, _Arity]]]]:
    for paragraph in re.split(r"\n(?! )", table.strip("\n")):
        shared, _, names = paragraph.partition("|")
        versions = [_version(text) for text in shared.split()]
        yield from ((name, versions) for name in names.split())


def _version(text: str) -> tuple[int, _Arity]:
    """From which opset on, and the numbers."""
    since, _, numbers = text.rpartition(":")
    inputs, outputs = (_range(part) for part in numbers.split(">"))
    return int(since or 1), (inputs, outputs)


def _range(text: str) -> range:
    least, dash, most = text.partition("-")
    return range(int(least), (int(most) if most else 1 << 31) + 1 if dash else int(least) + 1)
