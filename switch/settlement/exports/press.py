"""Prints a document as PDF, as a program of its own: the document (JSON) on standard input, the PDF on standard output.

`python press.py TEMPLATE [FONTS]`. Imports nothing of ours; typst is the optional extra `reports`.
Exit code 4: no font at hand has the document's characters.
"""

import os
import re
import sys
from pathlib import Path

import typst

HAN = re.compile("[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
# Families that have Chinese characters; the first that is here is used.
HAN_FAMILIES = ("Noto Sans CJK SC", "Source Han Sans SC", "Noto Serif CJK SC", "Source Han Serif SC", "Noto Sans SC",
                "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei", "SimSun", "Droid Sans Fallback", "AR PL UMing CN")


def main() -> int:
    os.nice(10)
    template, fonts = Path(sys.argv[1]), sys.argv[2:]
    document = sys.stdin.read()
    here = set(typst.Fonts(include_system_fonts=True, include_embedded_fonts=True, font_paths=fonts).families())
    han = next((family for family in HAN_FAMILIES if family in here), None)
    if han is None and HAN.search(document):
        return 4
    # The root is the templates' folder, so that a document could read nothing else of this machine.
    pdf = typst.compile(str(template), root=str(template.parent), font_paths=fonts, format="pdf",
                        sys_inputs={"document": document, "han": han or ""})
    sys.stdout.buffer.write(pdf)
    return 0


if __name__ == "__main__":
    sys.exit(main())
