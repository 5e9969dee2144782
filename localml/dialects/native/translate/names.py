"""Names for workloads that were submitted without one."""

from __future__ import annotations

import secrets

_HOW = """amber bold brave bright brisk calm clear clever cosy crisp daring deft eager early fair fancy fine fleet fond
free fresh gentle glad golden grand happy hardy jolly keen kind lively lucky mellow merry mild misty neat nimble noble
plucky polite proud quick quiet rapid ready rosy sharp shiny silent silver smart snowy solid spry steady still sunny
sure swift tidy tiny vivid warm wise witty young zesty"""
_WHO = """badger beaver bison bunting cheetah condor crane curlew dipper dolphin dove eagle egret falcon ferret finch
fox gannet gecko goose grouse hare heron hornet ibex ibis jackdaw jay kestrel kite koala lark lemur linnet lynx marten
martin merlin mole moose newt oriole osprey otter owl panda petrel pigeon pipit plover puffin quail rabbit raven robin
rook salmon seal shrike siskin snipe sparrow stork swan tapir tern thrush tiger toucan trout vole wren"""


def friendly() -> str:
    """Something like ``brave-otter-3f2``: easy to say, and hardly ever taken."""
    return f"{secrets.choice(_HOW.split())}-{secrets.choice(_WHO.split())}-{secrets.token_hex(2)[:3]}"
