"""The generators in data/priors: a card says what each is, and samples are as good as the card says."""

import pytest
import torch

from hglad.data.datasets import load_data
from hglad.evaluation.training import train_classifier
from hglad.networks import create_network
from hglad.priors import load_prior, prior_card
from hglad.priors.training.quality import draw_samples
from hglad.settings import TrainingSettings

SHIPPED = pytest.mark.parametrize("name", ["digits-16", "digits-16-biggan"])


@SHIPPED
def test_the_card_holds_the_data_and_the_promised_quality(name):
    card = prior_card(name)
    assert card["data"]["content_hash"] == load_data("digits").train.content_hash
    assert card["quality"]["samples"] == 2000 and card["quality"]["intended_class"] >= 97
    assert card["quality"]["trained_on_samples"] >= 90
    assert card["provenance"]["clean"] and len(card["provenance"]["commit"]) == 40


@SHIPPED
def test_a_fresh_classifier_sees_the_intended_digits(name):
    data, prior = load_data("digits"), load_prior(name)
    draw = torch.Generator().manual_seed(7)
    judge = create_network("convnet", data.train.image_shape, 10, draw, depth=3, width=16)
    protocol = TrainingSettings(epochs=8, batch_size=64, lr=0.02, augmentation="", ema_decay=None)
    train_classifier(judge, data.train.images, data.train.labels, data.train.normalize, protocol, draw)
    images, labels = draw_samples(prior, 300, seed=11)
    with torch.no_grad():
        predicted = judge(data.train.normalize(images)).argmax(dim=1)
    assert (predicted == labels).double().mean() > 0.95


@SHIPPED
def test_samples_of_a_class_differ(name):
    prior = load_prior(name)
    images, labels = draw_samples(prior, 100, seed=3)
    for label in range(10):
        digits = images[labels == label].flatten(1)
        assert torch.cdist(digits, digits)[~torch.eye(len(digits), dtype=torch.bool)].min() > 0.3
