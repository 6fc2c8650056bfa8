"""How the page looks, on a screen, on a phone and on paper, in light and in dark; it loads nothing."""

from __future__ import annotations

from typing import Final

# No script, no font, no picture and no style from anywhere, whatever a study's names may hold.
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c1c1e;--quiet:#66666b;--line:#d9d9de;--page:#fff;--soft:#f5f5f7;--link:#0058a3}
@media(prefers-color-scheme:dark){:root{--ink:#ececf0;--quiet:#a0a0a8;--line:#3c3c42;--page:#1a1a1d;--soft:#242428;
--link:#7cc0ff}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);background:var(--page);margin:0 auto;
padding:1.6em 1.5em 5em;max-width:92em;overflow-wrap:anywhere}
h1{font-size:1.5em;line-height:1.2;margin:0 0 .2em}h2{font-size:1.25em;margin:2.4em 0 .6em;
padding-top:.5em;border-top:1px solid var(--line)}
h3{font-size:1.02em;margin:1.8em 0 .3em}p{margin:.5em 0;max-width:52em}a{color:var(--link)}
.question{color:var(--quiet);margin:0 0 .7em}.answer{font-size:1.06em;max-width:78em;margin:.3em 0 .6em}
.meta,figcaption,nav,li{color:var(--quiet);font-size:.9em}figcaption{max-width:60em}.meta,li{max-width:84em}
nav a{margin-right:1.2em}ul{padding-left:1.2em}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.8em 0;font-size:.86em;font-variant-numeric:tabular-nums}
th,td{padding:.32em .6em;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;overflow-wrap:normal}
td:not(.words){white-space:nowrap}td.words{min-width:6em}
th{font-weight:600;border-bottom:2px solid var(--line);vertical-align:bottom}th.words,td.words{text-align:left}
tbody tr:hover{background:var(--soft)}code,pre{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.86em}
td code{overflow-wrap:anywhere}summary{cursor:pointer;color:var(--link);margin:.3em 0}
figure{margin:0 0 2em}figure svg{display:block;width:100%;height:auto;max-width:60em;background:#fff;border-radius:4px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);padding:.8em 1em;border-radius:4px;margin:.4em 0}
.samples td{text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;width:33%;min-width:14em}
.gold{color:var(--quiet)}
.beside{display:grid;grid-template-columns:minmax(0,1fr);gap:0 1.6em;align-items:start}
.beside table{margin:.2em 0 .6em;width:100%}.beside td.name{font-weight:600;overflow-wrap:anywhere;
min-width:7em}
.beside h3,.beside figure{margin:0}.beside figure svg{max-width:32em}
.beside figcaption{font-size:.8em;margin:.3em 0 1em}
.use{background:var(--soft)}.answer code{white-space:nowrap}
@media(min-width:68em){.beside{grid-template-columns:minmax(0,1.75fr) minmax(0,1fr)}}
@media(max-width:44em){body{padding:1em 1em 4em}h1{font-size:1.3em}.beside h3{margin-top:.6em}
.short thead{display:none}.short tr{display:flex;flex-wrap:wrap;gap:0 1em;padding:.45em .3em;
border-bottom:1px solid var(--line)}
.short td{border:0;padding:0;text-align:left;white-space:normal;min-width:0}
.short td::before{content:attr(data-name) " ";color:var(--quiet)}
.short tr::before{content:"";flex:1 0 100%}.short td.name,.short td.verdict{order:-1}
.short td.verdict{margin-left:auto;text-align:right}.short td.name::before,.short td.verdict::before{content:none}
.short td.all{flex-basis:100%}.short td.none{display:none}
#figures figure{overflow-x:auto}#figures figure svg{min-width:38em}
.samples thead{display:none}.samples td{display:block;width:auto;min-width:0;border:0}
.samples td::before{content:attr(data-name);display:block;color:var(--quiet);font-size:.9em}
.samples tr{border-bottom:1px solid var(--line);display:block}}
@media screen and (prefers-color-scheme:dark){figure svg{filter:invert(.9) hue-rotate(180deg)}}
@page{size:A4 landscape;margin:12mm}
@media print{body{max-width:none;padding:0;font-size:9pt}nav,td details{display:none}figure,tr{break-inside:avoid}
.wide{overflow:visible}table{font-size:7pt}th,td{padding:.2em .4em}td:not(.words){white-space:normal}
td.words{min-width:0}h2,h3{break-after:avoid}figure svg{max-width:22cm}}
"""
