//! Explicit congestion notification across the tunnel (RFC 6040).

/// The two ECN bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ecn {
    /// Not capable.
    NotEct,
    /// Capable, ECT(1).
    Ect1,
    /// Capable, ECT(0).
    Ect0,
    /// Congestion experienced.
    Ce,
}

impl Ecn {
    /// From the low two bits of a traffic class.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0,
            Self::Ect1 => 1,
            Self::Ect0 => 2,
            Self::Ce => 3,
        }
    }
}

/// Congestion was signalled on a packet whose transport would not understand it: the packet must be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCapable;

/// What the inner header is to say after decapsulation (RFC 6040, figure 4).
///
/// # Errors
/// [`NotCapable`].
#[inline]
pub const fn decapsulate(outer: Ecn, inner: Ecn) -> Result<Ecn, NotCapable> {
    match (outer, inner) {
        (Ecn::Ce, Ecn::NotEct) => Err(NotCapable),
        (Ecn::Ce, _) => Ok(Ecn::Ce),
        (Ecn::Ect1, Ecn::Ect0) => Ok(Ecn::Ect1),
        (_, inner) => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_rfc_6040() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let outer = [NotEct, Ect0, Ect1, Ce];
        let table = [
            (NotEct, [Ok(NotEct), Ok(NotEct), Ok(NotEct), Err(NotCapable)]),
            (Ect0, [Ok(Ect0), Ok(Ect0), Ok(Ect1), Ok(Ce)]),
            (Ect1, [Ok(Ect1), Ok(Ect1), Ok(Ect1), Ok(Ce)]),
            (Ce, [Ok(Ce), Ok(Ce), Ok(Ce), Ok(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, want) in outer.into_iter().zip(row) {
                assert_eq!(decapsulate(outer, inner), want, "outer {outer:?}, inner {inner:?}");
            }
        }
    }
}
