"""
What every page of a report is made of: its frame, its style for light and dark and for phones, and the few lines of
script that read out a chart under the finger. Nothing is fetched from anywhere: the page's own policy forbids it.

Not here: what is on the page (report_html.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--bg:#fbfaf8;--card:#fff;--ink:#1d1f23;--dim:#63676e;--edge:#e1ded8;--ok:#18794e;
--bad:#c62a2f;--okbg:#e5f5ec;--badbg:#fdeaea;--c1:#2a6fb3;--c2:#d9730d;--c3:#2b8a5b;--c4:#8a52b5;--c5:#b3261e;
--c6:#71757d;--band:#d9730d22}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--card:#1d2024;--ink:#e8e6e1;--dim:#9da2aa;--edge:#33373d;
--ok:#5fd39a;--bad:#ff8a85;--okbg:#14301f;--badbg:#3a1a1b;--c1:#6db0f2;--c2:#f5a253;--c3:#5fd39a;--c4:#c79bec;
--c5:#ff8a85;--c6:#a3a8b0;--band:#f5a25326}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1100px;margin:0 auto;padding:20px 18px 60px}
h1{font-size:24px;margin:0 0 2px;line-height:1.25}h2{font-size:18px;margin:34px 0 10px}
.sub{color:var(--dim);margin:0 0 14px}
.verdict{border-radius:10px;padding:12px 16px;margin:14px 0;border:1px solid}
.verdict.ok{background:var(--okbg);border-color:var(--ok)}.verdict.bad{background:var(--badbg);border-color:var(--bad)}
.verdict b{font-size:17px}.ok>b,.yes{color:var(--ok)}.bad>b,.no{color:var(--bad)}
.verdict ul{margin:6px 0 0;padding-left:20px}
code,.line{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.line{margin:6px 0 0;color:var(--dim)}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:10px;margin:14px 0}
.tile{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:9px 12px}
.tile span{display:block;color:var(--dim);font-size:13px}.tile b{font-size:20px;font-weight:600}
.tile small{display:block;color:var(--dim);font-size:12px}
figure{background:var(--card);border:1px solid var(--edge);border-radius:10px;margin:0 0 12px;padding:10px 12px 4px;
position:relative}
figcaption{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline;margin-bottom:4px}
.chip{color:var(--dim);font-size:13px;white-space:nowrap}
.chip i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:5px;vertical-align:middle}
.note{color:var(--dim);font-size:13px}
svg{display:block;width:100%;height:auto}
.narrow{display:none}
.grid{stroke:var(--edge);stroke-width:1}.axis{stroke:var(--dim);stroke-width:1}
.tick{fill:var(--dim);font-size:12px}.label{fill:var(--c2);font-size:12px;font-weight:600}
.line.c1,.line.c2,.line.c3,.line.c4,.line.c5,.line.c6{fill:none;stroke-width:1.8;stroke-linejoin:round;
stroke-linecap:round}
.mark{stroke:var(--c2);stroke-width:1.2;stroke-dasharray:4 3}.band{fill:var(--band)}
.cursor{stroke:var(--dim);stroke-width:1}.area{opacity:.82}
i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}i.c4{background:var(--c4)}
i.c5{background:var(--c5)}i.c6{background:var(--c6)}
.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}.line.c4{stroke:var(--c4)}
.line.c5{stroke:var(--c5)}.line.c6{stroke:var(--c6)}
.area.c1,.bar.c1{fill:var(--c1)}.area.c2,.bar.c2{fill:var(--c2)}.area.c3,.bar.c3{fill:var(--c3)}
.area.c4,.bar.c4{fill:var(--c4)}.area.c5,.bar.c5{fill:var(--c5)}.area.c6,.bar.c6{fill:var(--c6)}
.tip{position:absolute;pointer-events:none;background:var(--card);border:1px solid var(--edge);border-radius:8px;
padding:5px 9px;font-size:13px;box-shadow:0 2px 10px #0003;white-space:nowrap;z-index:2}
.tip b{display:block}
.none{color:var(--dim);margin:6px 0 12px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--edge);border-radius:10px;margin:0 0 12px}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:6px 12px;text-align:left;border-top:1px solid var(--edge);vertical-align:top}
tr:first-child th{border-top:0}th{color:var(--dim);font-weight:500;white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.id{font:12px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:nowrap}
tr.worse td:first-child{box-shadow:inset 3px 0 var(--bad)}tr.better td:first-child{box-shadow:inset 3px 0 var(--ok)}
tr.worse td:last-child{color:var(--bad)}tr.better td:last-child{color:var(--ok)}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:12px}
footer{color:var(--dim);font-size:13px;margin-top:30px}
@media(max-width:640px){main{padding:14px 10px 40px}.wide{display:none}.narrow{display:block}
.pair{grid-template-columns:1fr}h1{font-size:20px}.tiles{grid-template-columns:1fr 1fr}th,td{padding:5px 8px}
figure{padding:8px 6px 2px}}
@media print{figure,.scroll{break-inside:avoid}}
"""

SCRIPT = """
for(const figure of document.querySelectorAll("figure[data-points]")){
  const data=JSON.parse(figure.dataset.points),tip=document.createElement("div");
  tip.className="tip";tip.hidden=true;figure.append(tip);
  const time=s=>{const m=s<0?"-":"",v=Math.abs(Math.round(s));return m+(v>=3600?Math.floor(v/3600)+":"+
    String(Math.floor(v/60)%60).padStart(2,"0"):Math.floor(v/60))+":"+String(v%60).padStart(2,"0")};
  for(const svg of figure.querySelectorAll("svg[data-from]")){
    const d=svg.dataset,cursor=svg.querySelector(".cursor");
    const show=event=>{
      const box=svg.getBoundingClientRect(),scale=svg.viewBox.baseVal.width/box.width;
      const at=+d.from+((event.clientX-box.left)*scale-d.left)/(d.right-d.left)*(d.to-d.from);
      let near=0;data.x.forEach((x,i)=>{if(Math.abs(x-at)<Math.abs(data.x[near]-at))near=i});
      const x=+d.left+(data.x[near]-d.from)/(d.to-d.from)*(d.right-d.left);
      cursor.setAttribute("d","M"+x+" "+d.top+"V"+d.bottom);cursor.setAttribute("visibility","visible");
      tip.textContent="";const head=document.createElement("b");head.textContent=time(data.x[near]);tip.append(head);
      for(const [name,values] of data.rows){const row=document.createElement("div");
        row.textContent=name+"  "+values[near];tip.append(row)}
      tip.hidden=false;const outer=figure.getBoundingClientRect(),px=x/scale+box.left-outer.left;
      tip.style.left=Math.max(4,Math.min(px+12,outer.width-tip.offsetWidth-6))+"px";
      if(px+12+tip.offsetWidth>outer.width-6)tip.style.left=Math.max(4,px-tip.offsetWidth-12)+"px";
      tip.style.top=(box.top-outer.top+14)+"px"};
    const hide=()=>{tip.hidden=true;cursor.setAttribute("visibility","hidden")};
    svg.addEventListener("pointermove",show);svg.addEventListener("pointerdown",show);
    svg.addEventListener("pointerleave",hide)}
}
"""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def make_page(title: str, body: str) -> str:
    """A whole page, of its own and for itself. `body` is HTML, `title` is text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body><main>\n{body}\n</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def make_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: tuple[int, ...] = (),
    ids: tuple[int, ...] = (),
    marks: Sequence[str] = (),
) -> str:
    """Cells are text. `numbers` and `ids`: which columns are set as such; `marks`: a class for each row, or ""."""
    classes = {**dict.fromkeys(numbers, ' class="n"'), **dict.fromkeys(ids, ' class="id"')}
    titles = "".join(f"<th{classes[at] if at in numbers else ''}>{escape(name)}</th>" for at, name in enumerate(head))
    body = ""
    for number, row in enumerate(rows):
        mark = f' class="{marks[number]}"' if marks and marks[number] else ""
        cells = "".join(f"<td{classes.get(at, '')}>{escape(cell)}</td>" for at, cell in enumerate(row))
        body += f"<tr{mark}>{cells}</tr>"
    return f'<div class="scroll"><table><tr>{titles}</tr>{body}</table></div>'
