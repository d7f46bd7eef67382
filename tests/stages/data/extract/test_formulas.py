"""Formulas of pages: each once, as LaTeX, from whatever form the page has it in."""

from __future__ import annotations

import pytest

from tests.stages.data.extract.markup import markdown

MATH = "<math><msup><mi>a</mi><mn>2</mn></msup></math>"
FRACTION = '<math display="block"><mfrac><mi>a</mi><mi>b</mi></mfrac></math>'


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<math><annotation encoding="application/x-tex">x &lt; 3</annotation></math>', "$x < 3$"),
        ('<math alttext="{\\displaystyle e^{x}}"><mi>e</mi></math>', "$e^{x}$"),
        ('<script type="math/tex; mode=display">y_1 & 2</script>', "$$y_1 & 2$$"),
        ("<script type=math/tex>x &lt; y &amp; z</script>", "$x < y & z$"),
        (f"<script type=math/mml>{MATH}</script>", "$a^2$"),
        ("<script type=math/asciimath>a^2</script>", "`a^2`"),
        # KaTeX with MathML, without
        (
            '<span class="katex"><span class="katex-mathml"><math><annotation encoding="application/x-tex">x^2'
            '</annotation></math></span><span class="katex-html"><span>x</span><span>2</span></span></span>',
            "$x^2$",
        ),
        ("<span class=katex><span class=katex-html>x = y</span></span>", "x = y"),
        # MathJax 2: with a script, without one, with nothing but its output
        (
            "<span class=MathJax_Preview></span><span class=MathJax id=M-1-Frame><span class=math><span>a"
            "</span>2</span>"
            f"<span class=MJX_Assistive_MathML>{MATH}</span></span><script type=math/tex>a^{{2}}</script>",
            "$a^{2}$",
        ),
        (
            "<span class=MathJax_Preview>a2</span><span class=MathJax_SVG><svg></svg></span>"
            "<script type=math/tex>a</script>",
            "$a$",
        ),
        (
            "<div class=MathJax_Display><span class=MathJax>a2</span></div>"
            "<script type='math/tex; mode=display'>a^2</script>",
            "$$a^2$$",
        ),
        (f"<span class=mjx-chtml><span>a2</span><span class=MJX_Assistive_MathML>{MATH}</span></span>", "$a^2$"),
        (f"<span class=MathJax data-mathml='{MATH}'><span>a2</span></span>", "$a^2$"),
        ("<span class=MathJax><span>a = b</span></span>", "a = b"),
        ("<span data-tex='x^2'><span>x2</span></span>", "$x^2$"),
        # Pandoc for KaTeX, and with HTML instead of LaTeX
        ("<span class='math inline'>x_1 &lt; 2</span>", "$x_1 < 2$"),
        ("<span class='math display'>x_1</span>", "$$x_1$$"),
        ("<span class='math inline'>\\(x_1\\)</span>", "\\(x_1\\)"),
        ("<span class='math inline'><em>x</em> = 1</span>", "x = 1"),
        ("<span class=math>x1</span>", "x1"),
        # MathJax 3 and 4
        (
            f"<mjx-container jax=CHTML><mjx-math><mjx-c></mjx-c></mjx-math><mjx-assistive-mml>{MATH}"
            f"</mjx-assistive-mml></mjx-container>",
            "$a^2$",
        ),
        (
            f"<mjx-container display=true><svg></svg><mjx-assistive-mml>{FRACTION}</mjx-assistive-mml></mjx-container>",
            r"$$\frac{a}{b}$$",
        ),
        ("<mjx-container><mjx-math data-latex='\\alpha'><mjx-c></mjx-c></mjx-math></mjx-container>", r"$\alpha$"),
        # Prefixes
        ("<m:math><m:msup><m:mi>z</m:mi><m:mn>4</m:mn></m:msup></m:math>", "$z^4$"),
        ("<mml:math display='block'><mml:mspace/><mml:mi>z</mml:mi></mml:math>", "$$z$$"),
        # Wikipedia: MathML and an image, an image alone
        (
            f"<span style='display:none'>{MATH}</span>"
            f"<img class=mwe-math-fallback-image-inline alt='{{\\displaystyle a^2}}'>",
            "$a^2$",
        ),
        ("<img class=mwe-math-fallback-image-display alt='{\\displaystyle a^2}'>", "$$a^2$$"),
    ],
)
def test_formula_is_written_once(html: str, expected: str) -> None:
    assert markdown(f"<p>{html}</p>") == expected
    assert " ".join(markdown(f"<div>Let {html} be.</div>").split()) == f"Let {expected} be."


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (r'class=latex src="latex.php?latex=x" alt="\int_0^1 x\,dx"', r"$\int_0^1 x\,dx$"),
        (r'src="https://latex.codecogs.com/gif.latex?\dpi{300}&space;x^2&plus;1" alt="x^2+1"', "$x^2+1$"),
        (r'src="https://latex.codecogs.com/svg.latex?\inline%20x^2%20%3C%201" alt=""', "$x^2 < 1$"),
        (r'src="https://www.zhihu.com/equation?tex=x%5E2&from=a" alt=""', "$x^2$"),
        (r'src="//chart.googleapis.com/chart?cht=tx&chl=x%5E2" alt=""', "$x^2$"),
        (r'class=math src="_images/math/0af.png" alt="n"', "$n$"),
        (r'class=tex alt="$a_1$"', "$a_1$"),
        (r'class="ql-img-displayed-formula" alt="\[a_1\]"', "$$a_1$$"),
        (r'class=latex alt="a &lt; b &amp; c"', "$a < b & c$"),
        (r'class=math src="logo.png" alt="The department of mathematics"', ""),
        (r'src="texture.png" alt="a^2"', ""),
        (r"class=latex", ""),
        (r'src="https://latex.codecogs.com/png.latex?%5Cfrac%7Ba%7D%7Bb%7D"', r"$\frac{a}{b}$"),
    ],
)
def test_images_of_formulas(attributes: str, expected: str) -> None:
    assert markdown(f"<p>Let <img {attributes}> be.") == " ".join(f"Let {expected} be.".split())


@pytest.mark.parametrize(
    "text", [r"\(a_1 &lt; b\)", r"\[ \frac{a}{b} \]", "$$x^2$$", "$5 and $6", r"\begin{align} a &amp;= b \end{align}"]
)
def test_formulas_in_text_stay_as_they_are(text: str) -> None:
    plain = text.replace("&lt;", "<").replace("&amp;", "&")
    assert markdown(f"<p>So {text} holds.") == f"So {plain} holds."
    assert markdown(f"<p>So <span class='math notranslate'>{text}</span> holds.") == f"So {plain} holds."


def mo(*signs: str) -> str:
    return "".join(f"<mo>{sign}</mo>" for sign in signs)


X, Y, Z, TWO = "<mi>x</mi>", "<mi>y</mi>", "<mi>z</mi>", "<mn>2</mn>"
SUM = "<mi>x</mi><mo>+</mo><mi>y</mi>"


@pytest.mark.parametrize(
    ("mathml", "expected"),
    [
        (f"<msubsup>{mo('∑')}<mi>i</mi><mi>n</mi></msubsup>", r"\sum_i^n"),
        (
            f"<munderover>{mo('∑')}<mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>{X}",
            r"\sum_{i=1}^nx",
        ),
        (f"<munder><mi>lim</mi><mrow>{X}<mo>→</mo><mn>0</mn></mrow></munder>", r"\lim_{x\to0}"),
        (f"<msup><msup>{X}{TWO}</msup>{TWO}</msup>", "{x^2}^2"),
        (f"<msup>{X}<mrow><mo>−</mo><mn>12</mn></mrow></msup>", "x^{-12}"),
        (f"<msup>{X}<mo>′</mo></msup>", "x'"),
        (f"<mroot>{X}<mn>3</mn></mroot>", r"\sqrt[3]{x}"),
        (f"<mover>{X}<mo>^</mo></mover><mover accent='true'>{X}<mo>→</mo></mover>", r"\hat{x}\vec{x}"),
        (f"<mover><mrow>{SUM}</mrow><mo>¯</mo></mover>", r"\overline{x+y}"),
        (
            f"<mover>{X}<mo>˙</mo></mover><mover>{X}<mo>~</mo></mover><munder>{X}<mo>_</mo></munder>",
            r"\dot{x}\tilde{x}\underline{x}",
        ),
        (f"<munder><munder>{X}<mo>⏟</mo></munder><mtext>n times</mtext></munder>", r"\underbrace{x}_{\text{n times}}"),
        ("<mover><mo>→</mo><mi>f</mi></mover>", r"\xrightarrow{f}"),
        ("<mover><mo>=</mo><mi>!</mi></mover>", r"\overset{!}{=}"),
        (f"<mfenced>{X}{Y}</mfenced>", "(x,y)"),
        (f"<mfenced open='[' close='[' separators=';'>{X}{Y}{Z}</mfenced>", "[x;y;z["),
        (f"<mfenced open='|' close='|'>{X}</mfenced>", "|x|"),
        (
            f"<mmultiscripts><mi>C</mi>{X}{Y}<mprescripts></mprescripts><mn>6</mn><mn>14</mn></mmultiscripts>",
            "{}_6^{14}C_x^y",
        ),
        (f"<mmultiscripts><mi>R</mi><none></none>{X}{Y}<none></none></mmultiscripts>", "R^x{}_y"),
        (f"{X}<mspace width='1em'></mspace>{Y}<mspace width='0.1em'></mspace>{Z}", r"x\quad yz"),
        (
            f"<menclose notation='box'>{X}</menclose><menclose notation='updiagonalstrike'>{Y}</menclose>",
            r"\boxed{x}\cancel{y}",
        ),
        (
            f"<menclose notation='top'>{X}</menclose><menclose notation='radical'>{Y}</menclose>",
            r"\overline{x}\sqrt{y}",
        ),
        (f"<mstyle displaystyle='true'><mfrac>{X}{Y}</mfrac></mstyle>", r"\frac{x}{y}"),
        ("<mrow><mo>(</mo><mfrac linethickness='0'><mi>n</mi><mi>k</mi></mfrac><mo>)</mo></mrow>", r"\binom{n}{k}"),
        (
            f"<mrow><mo>(</mo><mtable><mtr><mtd>{X}</mtd><mtd>{Y}</mtd></mtr><mtr><mtd>{Z}</mtd><mtd>{TWO}"
            f"</mtd></mtr></mtable><mo>)</mo></mrow>",
            r"\begin{pmatrix}x & y \\ z & 2\end{pmatrix}",
        ),
        (
            f"<mi>f</mi><mo>=</mo><mrow><mo>{{</mo><mtable><mtr><mtd>{X}</mtd></mtr><mtr><mtd>{Y}</mtd>"
            f"</mtr></mtable></mrow>",
            r"f=\begin{cases}x \\ y\end{cases}",
        ),
        ("<mi>sin</mi><mo>\u2061</mo><mi>x</mi>", r"\sin x"),
        ("<mi>max</mi><mi>Var</mi>", r"\max\mathrm{Var}"),
        ("<mi>α</mi><mi>x</mi><mo>≤</mo><mi>β</mi>", r"\alpha x\le\beta"),
        (
            "<mi mathvariant='bold'>v</mi><mi mathvariant='double-struck'>R</mi><mi>ℝ</mi><mi>𝐱</mi><mi>𝑥</mi>",
            r"\mathbf{v}\mathbb{R}\mathbb{R}\mathbf{x}x",
        ),
        ("<mo>{</mo><mn>50</mn><mo>%</mo><mo>}</mo>", r"\{50\%\}"),
        ("<mtext>if a_b </mtext><mi>x</mi>", r"\text{if a\_b }x"),
        (
            f"<semantics><mrow>{X}</mrow><annotation-xml encoding='MathML-Content'><ci>x</ci></annotation-xml>"
            f"</semantics>",
            "x",
        ),
        (f"<maction>{X}{Y}</maction><mphantom>{Z}</mphantom>", r"x\phantom{z}"),
        ("<mi>a</mi><mo>&lt;</mo><mi>b</mi><mo>&amp;</mo>", r"a<b\&"),
        ("x", "x"),
    ],
)
def test_presentation_mathml(mathml: str, expected: str) -> None:
    assert markdown(f"<p><math>{mathml}</math></p>") == f"${expected}$"


def test_empty_formulas_leave_nothing() -> None:
    assert markdown("<p>a <math></math><script type=math/tex> </script><mjx-container></mjx-container>b") == "a b"


def test_boxes_of_text_named_like_the_output_of_mathjax_stay_text() -> None:
    assert markdown(f"<div class=MathJax><p>Let {MATH} be.</p><p>More.</p></div>") == "Let $a^2$ be.\n\nMore."
    assert markdown(f"<p class=MathJax>Let {MATH} be.</p>") == "Let $a^2$ be."
