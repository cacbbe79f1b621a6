"""Licences: SPDX expressions, headers, texts, near misses and silence; the filter over them."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, after, judge
from tilth.data.signal.licence import detect
from tilth.data.text import licences

MIT = """// Copyright (c) 2020 Someone
//
// Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
// documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
// rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, subject to
// the following conditions: The above copyright notice and this permission notice shall be included in all copies or
// substantial portions of the Software.
"""
BSD2 = """/* Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are met:
 * 1. Redistributions of source code must retain the above copyright notice.
 * 2. Redistributions in binary form must reproduce the above copyright notice. */
"""
BSD3 = (
    BSD2
    + """/* 3. Neither the name of X nor the names of its contributors may be used to endorse or promote products
 * derived from this software without specific prior written permission. */"""
)
APACHE = '# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except'
GPL = """This program is free software; you can redistribute it and/or modify it under the terms of the GNU General
Public License as published by the Free Software Foundation; either version 2 of the License, or (at your option) any
later version."""
GPL_ONLY = GPL.split("; either")[0] + "; version 3 of the License."


@pytest.mark.parametrize(
    ("text", "declared", "want"),
    [
        (MIT, "", ("MIT", "text", 1.0, "permissive")),
        (BSD2, "", ("BSD-2-Clause", "text", 1.0, "permissive")),
        (BSD3, "", ("BSD-3-Clause", "text", 1.0, "permissive")),
        (APACHE, "", ("Apache-2.0", "text", 1.0, "permissive")),
        (GPL, "", ("GPL-2.0-or-later", "text", 1.0, "copyleft")),
        (GPL_ONLY, "", ("GPL-3.0-only", "text", 1.0, "copyleft")),
        (GPL.replace("General", "Lesser General").replace("version 2 ", "version 2.1 "), "", ("LGPL-2.1-or-later",)),
        ("/* SPDX-License-Identifier: MIT */", "", ("MIT", "header", 1.0, "permissive")),
        ("# SPDX-License-Identifier: apache-2.0 or GPL-2.0-only\n", "", ("Apache-2.0 OR GPL-2.0-only", "header", 1.0)),
        ("<!-- SPDX-License-Identifier: (MIT AND GPL-3.0-only) -->", "", ("(MIT AND GPL-3.0-only)", "header", 1.0)),
        ("SPDX-License-Identifier: NOASSERTION\n" + APACHE, "", ("Apache-2.0", "text")),
        ("SPDX-License-Identifier: see the (file\n", "", (None, "none", 0.0, "unknown")),
        (
            APACHE,
            "GPL-2.0-only WITH Classpath-exception-2.0",
            ("GPL-2.0-only WITH Classpath-exception-2.0", "declared"),
        ),
        ("", "some licence of ours!", ("some licence of ours!", "declared", 1.0, "other")),
        (APACHE, "NOASSERTION", ("Apache-2.0", "text")),
        ("print('no word about it')", "", (None, "none", 0.0, "unknown")),
        ("The MIT licence is short. All rights reserved.", "", (None, "none", 0.0, "unknown")),
        ("", "", (None, "none", 0.0, "unknown")),
    ],
)
def test_detect(text: str, declared: str, want: tuple) -> None:
    assert detect(text, declared)[: len(want)] == want


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("mit", "permissive"),
        ("MIT OR GPL-2.0-only", "permissive"),
        ("MIT AND GPL-2.0-only", "copyleft"),
        ("(MIT OR GPL-2.0-only) AND MPL-2.0", "weak copyleft"),
        ("MIT OR GPL-2.0-only AND Foo-1.0", "permissive"),
        ("LGPL-2.1+", "weak copyleft"),
        ("AGPL-3.0-or-later", "copyleft"),
        ("CC-BY-NC-4.0", "other"),
        ("NOASSERTION", "unknown"),
    ],
)
def test_classes(expression: str, kind: str) -> None:
    assert licences.parse(expression)[1] == kind


@pytest.mark.parametrize(
    "text", ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT GPL-2.0", "MIT, BSD", "MIT/X11", "a" * 9 + "!"]
)
def test_no_expression(text: str) -> None:
    with pytest.raises(licences.NoExpression):
        licences.parse(text)


@given(st.text(alphabet="MIT ORANDWH()-.+1\n", max_size=30))
def test_parsing_never_fails_otherwise(text: str) -> None:
    try:
        expression, kind = licences.parse(text)
    except licences.NoExpression:
        return
    assert licences.parse(expression) == (expression, kind)


def test_filter() -> None:
    half = MIT.replace("to deal in the Software without restriction", "")
    rows = [
        (MIT, "{}"),
        (GPL, "{}"),
        ("code", "{}"),
        (half, "{}"),
        (MIT, '{"opt_out": true}'),
        (MIT, '{"opt_out": false}'),
    ]
    (batch,) = batches(Document(str(i), text, "s", "p", metadata) for i, (text, metadata) in enumerate(rows))
    signals = Signals(batch, {})
    verdicts = judge(resolve("curate", "licence").build(), signals)
    assert verdicts.reason == ["", "licence not wanted", "licence unknown", "licence not sure", "opted out", ""]
    assert verdicts.value is not None and verdicts.value[3] == pytest.approx(2 / 3)
    left: pa.RecordBatch = after(verdicts, signals).batch
    assert json.loads(left.column("metadata")[0].as_py()) == {
        "licence": {"confidence": 1.0, "id": "MIT", "source": "text"}
    }
    loose = resolve("curate", {"use": "licence", "keep": ["unknown"], "licences": ["GPL-2.0-or-later"]}).build()
    assert judge(loose, signals).reason[:3] == ["licence not wanted", "", ""]
