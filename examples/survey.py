"""After: which valley did each run end in, and how flat is it there?"""

import torch
from torch import nn

import thalweg as tw
from thalweg.experiments.data import digits
from thalweg.experiments.models import MLP

data = digits()
train, test = (data.train_x, data.train_y), (data.test_x, data.test_y)


def trained(seed: int, order: int) -> dict[str, torch.Tensor]:
    """Weights after 300 steps of SGD from the weights of a seed, with the batches in some order."""
    torch.manual_seed(order)
    model = MLP((64, 50, 50, 10), seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _step in range(300):
        batch = torch.randint(0, len(train[0]), (50,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train[0][batch]), train[1][batch]).backward()
        optimizer.step()
    return model.state_dict()


ends = [trained(seed=0, order=0), trained(seed=0, order=1), trained(seed=1, order=0)]
survey = tw.survey(MLP((64, 50, 50, 10)), ends, train=train, test=test, parameters="2.weight")
print(survey.summary())
