"""The shape vocabulary: every tensor that crosses a module boundary, named once.

Axes: b batch, h heads, n queries, m keys, d head dim, e value dim, f features, c chunks, l tokens of a chunk, w hidden
size of a model, o its classes or vocabulary, v a decoder's vocabulary, r pairs of features that rotate together, p
sinks; t and s heads of the teacher's and the student's keys, where groups of query heads share them; i what was
measured of each head. Masks are True where a key may be attended to.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Queries = Float[Tensor, "b h n d"]
Keys = Float[Tensor, "b h m d"]
Values = Float[Tensor, "b h m e"]
Outputs = Float[Tensor, "b h n e"]
HeadStates = Float[Tensor, "b h n d"]
Features = Float[Tensor, "b h n f"]
TokenFeatures = Float[Tensor, "2 b h 1 f"]
ChunkFeatures = Float[Tensor, "b h c l f"]
QueryFeatures = Float[Tensor, "b h n f"]
KeyFeatures = Float[Tensor, "b h m f"]
GroupedKeys = Float[Tensor, "b t m d"]
GroupedKeyFeatures = Float[Tensor, "b s m f"]
LogKeyFeatures = Float[Tensor, "b h m f"]
PerFeature = Float[Tensor, "b h 1 f"]
RowScores = Float[Tensor, "b h n"]
Scores = Float[Tensor, "b h n m"]
Weights = Float[Tensor, "b h n m"]
LogWeights = Float[Tensor, "b h n m"]
PerQuery = Float[Tensor, "b h n"]
RowValues = Float[Tensor, "*rows m"]
RowVisible = Bool[Tensor, "*#rows m"]
PerRow = Float[Tensor, "*rows"]
HeadItems = Float[Tensor, "h i"]
PerHead = Float[Tensor, " h"]
Visible = Bool[Tensor, "#b 1 #n m"]
KeyMask = Bool[Tensor, "b m"]
SinkPositions = Int[Tensor, "b p"]
SinkMask = Bool[Tensor, "b p"]
QueryMask = Bool[Tensor, "b n"]
HeadMatrix = Float[Tensor, "#h f d"]
Logits = Float[Tensor, "*b o"]
LogitMask = Bool[Tensor, "*b"]
Scalar = Float[Tensor, ""]
KVState = Float[Tensor, "b h f e"]
KeyState = Float[Tensor, "b h f"]
TokenIds = Int[Tensor, "b n"]
PairIds = Int[Tensor, "b m"]
Labels = Int[Tensor, "b n"]
TokenLogits = Float[Tensor, "b n v"]
ScoredLogits = Float[Tensor, "s v"]
ScoredIds = Int[Tensor, " s"]
ClassIds = Int[Tensor, " b"]
Hidden = Float[Tensor, "b n w"]
Pooled = Float[Tensor, "b w"]
Rotation = tuple[Float[Tensor, "n r"], Float[Tensor, "n r"]]
