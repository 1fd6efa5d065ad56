"""How a Bento travels: as one archive with its models, in a place that every node reaches, under its own checksum."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

from ray_canary import archive, remote
from ray_canary.bentos import BentoInfo, missing_models, model_path
from ray_canary.errors import BentoUnusable
from ray_canary.places import store_url
from ray_canary.plan import ArchivePlan

#: What names the place where the file and the command line don't.
STORE: Final = "RAY_CANARY_BENTO_STORE"


def push(bento: BentoInfo, bentos: Path, store: str, say: Callable[[str], None] = lambda _: None) -> ArchivePlan:
    """Put a Bento of the Bento store `bentos` where `store` says, unless it is there, and return what names it.

    `say` is told in one sentence what became of it, and which models don't travel.

    Raises:
        BentoUnusable: it refers to a model that isn't here, or can't be packed.
        Unreachable: the place can't be reached or written.
    """
    folders = contents(bento, bentos)
    try:
        digest = archive.digest(folders)
        packed = ArchivePlan(url=archive_url(store, digest), sha256=digest)
        if remote.exists(packed.url):
            say(f"{bento.tag} is at {packed.url} already")
        else:
            remote.put(packed.url, lambda file: _write(bento, folders, file, digest))
            say(f"Pushed {bento.tag} to {packed.url}")
    except archive.NotArchivable as error:
        raise BentoUnusable(f"{bento.tag} can't be pushed: {error}") from None
    except OSError as error:
        raise BentoUnusable(f"{bento.tag} can't be read: {error}") from None
    if others := ", ".join(model.tag for model in bento.models if model.registry != "bentoml"):
        say(f"{bento.tag} refers to {others}, which each node fetches from Hugging Face when the Bento starts")
    return packed


def contents(bento: BentoInfo, bentos: Path) -> dict[str, Path]:
    """Return the folders that a Bento's archive is made of, as in a `.bento`: itself, and its models in `models`.

    Raises:
        BentoUnusable: a model isn't here.
    """
    if missing := missing_models(bento, bentos):
        where = bentos.parent / "models"
        raise BentoUnusable(
            f"{bento.tag} refers to the model {', '.join(missing)}, which is not in {where}; get it with "
            "`bentoml models pull` or `bentoml models import`"
        )
    own = (model.tag for model in bento.models if model.registry == "bentoml")
    outside = [model_path(tag) for tag in own if not (bento.path / "models" / model_path(tag)).is_dir()]
    return {"": bento.path, **{f"models/{path}": bentos.parent / "models" / path for path in outside}}


def archive_url(store: str, digest: str) -> str:
    """Return where a store has the archive with a checksum."""
    return f"{store_url(store)}/{digest}.tar"


def _write(bento: BentoInfo, folders: Mapping[str, Path], file: IO[bytes], digest: str) -> None:
    if archive.write(folders, file) != digest:
        raise BentoUnusable(f"{bento.tag} was changed while it was being pushed; push it again")
