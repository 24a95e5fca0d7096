//! The colours of plots, for a light and for a dark page. Plots are drawn in the light ones; the page's style replaces each
//! by its dark one where the reader prefers that.

use std::fmt::Write as _;

use plotters::style::RGBColor;

/// A colour on a light and on a dark ground.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ink {
    light: u32,
    dark: u32,
}

/// Words.
pub(super) const TEXT: Ink = Ink { light: 0x52514E, dark: 0xC3C2B7 };
/// Whiskers and what must be seen.
pub(super) const STRONG: Ink = Ink { light: 0x0B0B0B, dark: 0xFFFFFF };
pub(super) const AXIS: Ink = Ink { light: 0xC3C2B7, dark: 0x52514E };
pub(super) const GRID: Ink = Ink { light: 0xE6E5DE, dark: 0x2E2E2B };

/// Series, in an order in which neighbours differ for the colour-blind too.
const SERIES: [Ink; 8] = [
    Ink { light: 0x2A78D6, dark: 0x3987E5 },
    Ink { light: 0xEDA100, dark: 0xC98500 },
    Ink { light: 0x1BAF7A, dark: 0x199E70 },
    Ink { light: 0xE34948, dark: 0xE66767 },
    Ink { light: 0x4A3AA7, dark: 0x9085E9 },
    Ink { light: 0xEB6834, dark: 0xD95926 },
    Ink { light: 0x008300, dark: 0x0CA30C },
    Ink { light: 0xE87BA4, dark: 0xD55181 },
];

/// The series' colour, of so many that can be told apart.
pub(super) fn series(number: usize) -> Ink {
    let [first, ..] = SERIES;
    SERIES.get(number % SERIES.len()).copied().unwrap_or(first)
}

impl Ink {
    /// As plots draw it.
    pub(super) fn colour(self) -> RGBColor {
        let [_, red, green, blue] = self.light.to_be_bytes();
        RGBColor(red, green, blue)
    }
}

/// Style rules: classes `s0` to `s7` for legends, and dark colours for what is drawn in light ones.
pub(crate) fn style() -> String {
    let mut style = String::new();
    for (number, ink) in SERIES.iter().enumerate() {
        let _ = write!(style, ".s{number}{{background:#{:06X}}}", ink.light);
    }
    style.push_str("@media (prefers-color-scheme:dark){");
    for (number, ink) in SERIES.iter().enumerate() {
        let _ = write!(style, ".s{number}{{background:#{:06X}}}", ink.dark);
    }
    for Ink { light, dark } in SERIES.into_iter().chain([TEXT, STRONG, AXIS, GRID]) {
        for what in ["fill", "stroke"] {
            let _ = write!(style, "svg [{what}=\"#{light:06X}\"]{{{what}:#{dark:06X}}}");
        }
    }
    style.push('}');
    style
}

/// The class of a series in legends.
pub(crate) fn class(number: usize) -> String {
    format!("s{}", number % SERIES.len())
}
