//! Parser of path descriptions.

use std::{str::FromStr, time::Duration};

use pilot_sim::{Channel, Links, Loss, Path};

/// A parse error.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("unknown setting {0:?}")]
    Unknown(String),
    #[error("{0:?} makes no sense")]
    Value(String),
}

/// A path in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spec {
    delay: Duration,
    /// Bytes per second, 0 for no limit.
    rate: u64,
    queue: usize,
    loss: f64,
    loss_back: f64,
    burst: Option<(f64, f64, f64)>,
    jitter: Duration,
    noise: Duration,
    duplicate: f64,
    reorder: Option<(f64, Duration)>,
    mtu: usize,
    /// Seed of the random generators, for reproducible runs.
    pub(crate) seed: Option<u64>,
}

impl Spec {
    /// The channels from left to right and back.
    pub(crate) fn channels(&self, links: &mut Links) -> [Channel; 2] {
        let random = |loss: f64| if loss > 0.0 { Loss::Random(loss) } else { Loss::None };
        let mut link = || (self.rate > 0).then(|| links.add(self.rate, self.queue));
        let (there, back) = (link(), link());
        let loss = match self.burst {
            Some((begin, end, inside)) => Loss::Bursty { begin, end, inside },
            None => random(self.loss),
        };
        let (reordering, reorder_delay) = self.reorder.unwrap_or_default();
        let forward = Path {
            latency: self.delay,
            jitter: self.jitter,
            noise: self.noise,
            loss,
            duplication: self.duplicate,
            reordering,
            reorder_delay,
            mtu: self.mtu,
            has_icmp: false,
            link: there,
        };
        let backward =
            Path { latency: self.delay, loss: random(self.loss_back), link: back, ..Path::default() };
        [Channel::new(forward), Channel::new(backward)]
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, SpecError> {
    text.parse().map_err(|_| SpecError::Value(text.into()))
}

fn probability(text: &str) -> Result<f64, SpecError> {
    let value: f64 = number(text)?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(SpecError::Value(text.into())) }
}

fn duration(text: &str) -> Result<Duration, SpecError> {
    if let Some(value) = text.strip_suffix("us") {
        return Ok(Duration::from_micros(number(value)?));
    }
    let value = text.strip_suffix("ms").ok_or_else(|| SpecError::Value(text.into()))?;
    Ok(Duration::from_millis(number(value)?))
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(line: &str) -> Result<Self, SpecError> {
        let mut spec = Self { queue: 1 << 20, ..Self::default() };
        for setting in line.split_whitespace() {
            let (key, value) = setting.split_once('=').ok_or_else(|| SpecError::Unknown(setting.into()))?;
            match key {
                "delay" => spec.delay = duration(value)?,
                "rate" => {
                    let mbit = value.strip_suffix("mbit").ok_or_else(|| SpecError::Value(value.into()))?;
                    spec.rate = number::<u64>(mbit)? * 125_000;
                }
                "queue" => spec.queue = number(value)?,
                "loss" => spec.loss = probability(value)?,
                "loss-back" => spec.loss_back = probability(value)?,
                "burst" => {
                    let parts: Result<Vec<f64>, _> = value.split(',').map(probability).collect();
                    let [begin, end, inside] = parts?[..] else { return Err(SpecError::Value(value.into())) };
                    spec.burst = Some((begin, end, inside));
                }
                "noise" => spec.noise = duration(value)?,
                "jitter" => spec.jitter = duration(value)?,
                "duplicate" => spec.duplicate = probability(value)?,
                "reorder" => {
                    let (chance, late) =
                        value.split_once(',').ok_or_else(|| SpecError::Value(value.into()))?;
                    spec.reorder = Some((probability(chance)?, duration(late)?));
                }
                "mtu" => spec.mtu = number(value)?,
                "seed" => spec.seed = Some(number(value)?),
                _ => return Err(SpecError::Unknown(key.into())),
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_parsed() {
        let spec: Result<Spec, _> =
            "delay=15ms rate=100mbit queue=9 loss=0.5 burst=0.1,0.2,1 noise=9us mtu=1400 seed=7".parse();
        let expected = Spec {
            delay: Duration::from_millis(15),
            rate: 12_500_000,
            queue: 9,
            loss: 0.5,
            burst: Some((0.1, 0.2, 1.0)),
            noise: Duration::from_micros(9),
            mtu: 1400,
            seed: Some(7),
            ..Spec::default()
        };
        assert_eq!(spec, Ok(expected));
    }

    #[test]
    fn invalid_items_are_named_in_the_error() {
        for line in ["speed=1", "delay"] {
            let name = line.split('=').next().unwrap_or_default();
            assert_eq!(line.parse::<Spec>(), Err(SpecError::Unknown(name.into())));
        }
        for (key, value) in
            [("delay", "15"), ("rate", "100"), ("loss", "2"), ("burst", "1,1"), ("reorder", "1")]
        {
            assert_eq!(format!("{key}={value}").parse::<Spec>(), Err(SpecError::Value(value.into())));
        }
    }
}
