//! Settings of a balancer.

use crate::ejection::EjectionConfig;
use crate::prober::ProberConfig;
use crate::table::{AverageConfig, Locality};
use crate::warm_up::WarmUpConfig;
use crate::zones::ZoneConfig;

/// Settings of a [`Balancer`](super::Balancer); `None` leaves a part out.
#[derive(Clone, Debug, PartialEq)]
pub struct BalancerConfig {
    /// Where the caller stands.
    pub locality: Locality,
    /// How results enter the averages.
    pub averages: AverageConfig,
    /// Leaving out hosts that fail.
    pub ejection: Option<EjectionConfig>,
    /// Below this share of available hosts all of them are used. 0 turns it
    /// off. Default 0.5.
    pub panic_below: f64,
    /// Near hosts first.
    pub zones: Option<ZoneConfig>,
    /// Little at first for new and returned hosts.
    pub warm_up: Option<WarmUpConfig>,
    /// Probes, for policies that want them.
    pub prober: ProberConfig,
}

impl Default for BalancerConfig {
    fn default() -> Self {
        Self {
            locality: Locality::default(),
            averages: AverageConfig::default(),
            ejection: Some(EjectionConfig::default()),
            panic_below: 0.5,
            zones: Some(ZoneConfig::default()),
            warm_up: Some(WarmUpConfig::default()),
            prober: ProberConfig::default(),
        }
    }
}

impl BalancerConfig {
    /// The policy alone: nothing is left out or held back.
    pub fn bare() -> Self {
        Self {
            ejection: None,
            panic_below: 0.0,
            zones: None,
            warm_up: None,
            ..Self::default()
        }
    }
}
