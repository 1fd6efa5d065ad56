"""Text cut into sentences, and sentences into the words that carry their meaning."""

import re
import unicodedata


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words so common that sharing them says nothing about what two sentences are about.
STOP_WORDS = _listed(
    """
    a about above after again against all almost also although always am among an and another any anyone anything are
    around as at away be became because been before being below between both but by came can cannot come could did do
    does doing done down during each either else enough even ever every everyone everything few first for from further
    gave get give given go goes gone got had has have having he hence her here hers herself him himself his how however
    i if in indeed instead into is it its itself just last least less let like made make many may me merely might more
    most much must my myself namely neither never next no nobody none nor not nothing now of off often on once one only
    onto or other others our ours ourselves out over own perhaps quite rather said same say says see seem seemed seems
    several shall she should since so some somehow someone something sometimes soon still such take taken than that the
    their theirs them themselves then there thereby therefore these they this those though through thus to together too
    took toward towards two under unless until up upon us very was we well went were what whatever when where whereas
    whether which while whilst who whole whom whose why will with within without would yet you your yours yourself
    """
)

# A full stop after one of these ends the word and not the sentence.
ABBREVIATIONS = _listed(
    """
    adm approx art capt cf ch co col corp dept dr ed eds eq et est fig figs fr gen gov hon inc jr lt ltd maj messrs mme
    mr mrs ms mt mts no nos nr op p pp pres prof pt rep rev sen sgt sr st vol vols vs
    jan feb mar apr jun jul aug sep sept oct nov dec
    """
)

# What may end a sentence: a mark, closing quotes or brackets, and then space; or a full-width mark, which needs none.
_END = re.compile(r"""[.!?…]["'”’»)\]]*(?=\s)|[。！？]["'”’」』）]*""")
_PARAGRAPHS = re.compile(r"\n\s*\n")
# One Chinese or Japanese character counts as a word: those scripts put no space between words.
_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|[^\W_぀-ヿ㐀-鿿豈-﫿]+(?:['’][^\W\d_]+)*")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_OPENING = "\"'“‘«([「『（"


def split(text: str) -> list[str]:
    """Return the sentences of a text in their order, each on one line.

    A blank line always ends a sentence. A full stop does not after a title or an initial ("Dr. Haldane", "J. S.
    Haldane"), nor where the next word starts with a small letter ("e.g. birds").
    """
    sentences = []
    for paragraph in _PARAGRAPHS.split(text):
        line = " ".join(paragraph.split())
        start = 0
        for end in _END.finditer(line):
            if _ends_sentence(line, start, end):
                sentences.append(line[start : end.end()].strip())
                start = end.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]


def words(sentence: str) -> list[str]:
    """Return the words of a sentence that are not stop words, folded so that plurals and cases of one word agree."""
    found = _WORD.findall(unicodedata.normalize("NFC", sentence).casefold())
    return [_fold(word) for word in found if word not in STOP_WORDS]


def shorten_to(count: int) -> int:
    """Return how many of so many sentences a summary has: a third of them, from one to three."""
    return min(3, -(-count // 3))


def _ends_sentence(line: str, start: int, end: re.Match[str]) -> bool:
    mark = line[end.start()]
    # 64 characters hold any word worth asking about, and keep this linear in a text that has no spaces.
    following = line[end.end() : end.end() + 64].lstrip().lstrip(_OPENING)
    if mark in "。！？" or not following:
        return True
    if following[0].islower():
        return False
    if mark != ".":
        return True
    before = line[max(start, end.start() - 64) : end.start()].rpartition(" ")[2].lstrip(_OPENING)
    if before.casefold() in ABBREVIATIONS:
        return False
    if not _INITIALS.fullmatch(before):
        return True
    # "the U.S. The" are two sentences, "the U.S. Navy" is none, and in "J. A. Smith" the "A" is no article.
    opener = _WORD.match(following)
    return opener is not None and len(opener[0]) > 1 and opener[0].casefold() in STOP_WORDS


def _fold(word: str) -> str:
    word = word.replace("’", "'").removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
