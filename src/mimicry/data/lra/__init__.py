"""Long Range Arena: five classification tasks over sequences of 1,024 to 4,000 bytes, and a small stand-in.

Rows are bytes on disk, memory-mapped, and become ids batch by batch. Beside what every task says, these say how a model
for them is built: `vocab_size` (ids, padding included), `max_length` (positions) and `towers` (sequences of a row).
Where a task has test rows, they are the primary split, the one that is reported; its validation rows are there to
choose on.

The protocol that published numbers mostly follow, for an encoder of 2 layers, width 64, 2 heads of 32, hidden width
128, dropout 0.1 and mean pooling, trained by AdamW (eps 1e-6, no weight decay) with a peak learning rate of 1e-4,
linear warm-up and linear decay, and reported from the checkpoint with the best validation score:

    task           steps   warm-up   rows a step   positions   validated every
    listops        5,000     1,000            32       2,000          50 steps
    lra_text      20,000     8,000            32       4,000         500 steps
    lra_retrieval 30,000       800            32   2 x 4,000         300 steps
    lra_image     35,000       175           256       1,024         175 steps
    pathfinder32  62,400       312           256       1,024         312 steps

The published code does not clip gradients. In conf/budget each task has a budget of its name, as close to this as whole
epochs come; experiments=lra takes that of its task.

Source: Tay et al. 2020 (arXiv 2011.04006); the protocol is that of the PyTorch code of Xiong et al. 2021
(Nystromformer, arXiv 2102.03902), which later linear-attention papers share.
"""
