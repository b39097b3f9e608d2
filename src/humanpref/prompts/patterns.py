"""Style words inside a phrase of content: what may be left out of the middle of a sentence. All bounded, all linear."""

from __future__ import annotations

import re

_SITE = (
    r"(?:a[r]?r?tstation(?:\s?hq)?|art\s?station(?:\s?hq)?|arstation|deviant\s?art|pixiv(?:\s?fanbox)?|behance(?:\s?hd)?|"
    r"cg\s?society|furaffinity|zbrush\s?central|500\s?px|unsplash|instagram)"
)
_ENGINE = (
    r"(?:unreal\s?engine(?:\s?\d(?:\.\d)?)?|unreal\s?\d|octane(?:\s?render(?:ed|er|ing)?)?|v-?ray|redshift\s?render|"
    r"cinema\s?4\s?d|cry\s?engine|frostbite\s?engine|zbrush|houdini|lumion|ue[45]|arnold\s?render|keyshot)"
)
_MODIFIER = (
    r"(?:very|highly|extremely|ultra|hyper|super|insanely|incredibly|exquisitely|finely|ultrafine|richly|amazingly|"
    r"intricately|absurdly|breathtaking(?:ly)?|masterfully|extra|most|stunning(?:ly)?)"
)

STRONG = re.compile(
    "|".join(
        (
            r"\[?--[a-z]{1,12}(?:[\s=][\w.:]{1,12})?\]?",  # parameters: --ar 16:9, [--height 512]
            r"(?<=\s)-\s?[whsncaWHSNCA]\s?\d{1,4}\b",
            r"<lora:[^>\s]{1,80}>",
            r"(?<=[\w\s]):\s?\d(?:\.\d{1,2})?(?=\s*\)|\s*$|\s*,)",  # weights: (red hair:1.3), ::2
            r"\(\((?:\()*|\)\)(?:\))*",
            rf"\b(?:(?:now\s|currently\s)?(?:tr[ae]n?di?n?g?|featured|popular|posted|hot|award[\s-]?winning)\s{{1,2}})?(?:on|in|at|of)\s{{1,2}}{_SITE}\b",
            rf"\b(?:trending|trend)\s{{0,2}}(?:#\s?1\s)?{_SITE}\b",
            rf"\b{_SITE}(?:\s(?:trending|contest\swinner|hd|hq))?\b",
            rf"\b(?:(?:rendered|made|render|created|modell?ed|cgi)\s)?(?:in|with|by|on|using|via)\s{_ENGINE}\b",
            r"\b(?:rendered|made|modell?ed)\s(?:in|with|by)\s(?:blender|maya|3ds?\smax)\b(?:\s?3d)?",
            rf"\b{_ENGINE}\b(?:\s(?:render(?:ed|ing)?|engine))?",
            rf"\b(?:{_MODIFIER}[\s-]{{1,3}}){{1,6}}(?:and\s)?(?:detailed|details?|realistic|realism|intricate|photo\s?-?\s?realistic|"
            r"hi(?:gh)?[\s-]{1,3}res(?:olution)?|high\squality)\b(?:\s(?:and\sintricate|hi-?res|8\s?k|4\s?k))?",
            r"\b(?:hyper|photo|ultra)(?:\s?-\s?|\s)?(?:realistic(?:ally)?|realism|realist|detailed)\b",
            r"\b(?:hyperdetailed|ultradetailed|ultrarealistic|hyperreal)\b",
            r"\b(?:high(?:est)?|best|top)[\s-]{1,3}(?:resolution|quality|definition)\b",
            r"\b(?:2|4|5|6|8|10|12|16|32|64)\s?[kK](?:\s?(?:uhd|hdr|hd|resolution|quality|textures?))?\b",
            r"\b(?:uhd|hdr|full\shd|ultra\shd|u\.h\.d)\b",
            r"\baward(?:\s?-\s?|\s)winning\b",
            r"#(?:artstation|art|digitalart|trending|8k|4k|aiart|artoftheday|instagood|illustration|conceptart)\w{0,20}",
        )
    ),
    re.IGNORECASE,
)
"""Left out wherever they stand."""

WEAK = re.compile(
    r"\b(?:extremely\s|very\s)?(?:breathtaking\s)?(?:detailed|masterpiece|hi-?res|photorealistic)\b(?!\s(?:of|by)\b)"
    r"|\b(?:very\s)?intricate(?=\s(?:line|linework|pencil|ink|oil|digital|painting|drawing|illustration|sketch|render))",
    re.IGNORECASE,
)
"""Left out of a sentence only where the prompt shows elsewhere that it lists boosters: "a detailed map" is content."""
