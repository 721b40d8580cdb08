"""
Wylding Woods, the example experience: 37 waypoints around Mill Valley with their quests and items.

Three waypoints are the data model's (`1_inter_woander_storefront`, `8_inter_gravity_car`,
`13_inter_lending_library_story_anchor`). The other 34 are invented here and say so (`is_invented`), as are all
places but the gravity car's: they make a loop of more than two kilometres at walking distances from it.

Not here: what a player does at a waypoint (walk_plan.py, storyline.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A place of an experience and what a player finds there."""

    content_id: str
    lat: float
    lng: float
    is_invented: bool = True
    item: str | None = None  # goes into the inventory, once
    collectible: tuple[str, int] | None = None  # a thing that is counted, and how many lie here
    starts: str | None = None  # a quest
    completes: str | None = None  # a quest that an earlier waypoint started
    opens: str | None = None  # an area
    flag: str | None = None
    achievement: str | None = None


@dataclass(frozen=True, slots=True)
class Experience:
    """What a player can play: an id and its waypoints in walking order."""

    experience_id: str
    title: str
    waypoints: tuple[Waypoint, ...]

    def find_waypoint(self, content_id: str) -> Waypoint | None:
        return next((waypoint for waypoint in self.waypoints if waypoint.content_id == content_id), None)

    def nearest_waypoint(self, lat: float, lng: float) -> tuple[Waypoint, float]:
        """The waypoint closest to a location, and how many metres away it is."""
        nearest = min(self.waypoints, key=lambda waypoint: distance_m(lat, lng, waypoint.lat, waypoint.lng))
        return nearest, distance_m(lat, lng, nearest.lat, nearest.lng)


EARTH_RADIUS_M = 6_371_008.8


def distance_m(lat_a: float, lng_a: float, lat_b: float, lng_b: float) -> float:
    """Great-circle distance between two WGS 84 locations."""
    phi_a, phi_b = math.radians(lat_a), math.radians(lat_b)
    half_phi, half_lambda = (phi_b - phi_a) / 2, math.radians(lng_b - lng_a) / 2
    chord = math.sin(half_phi) ** 2 + math.cos(phi_a) * math.cos(phi_b) * math.sin(half_lambda) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, chord)))


_WYLDING_WOODS_WAYPOINTS = (
    Waypoint(
        "1_inter_woander_storefront",
        37.904804,
        -122.549093,
        is_invented=False,
        item="compass",
        starts="discover_woander",
        achievement="first_waypoint",
    ),
    Waypoint("2_inter_depot_clock", 37.904571, -122.548535, collectible=("brass_tokens", 1)),
    Waypoint("3_inter_lytton_redwood", 37.904333, -122.548038, collectible=("mystical_flowers", 1)),
    Waypoint("4_inter_bookshop_window", 37.904483, -122.547477, item="map"),
    Waypoint(
        "5_inter_miller_mural", 37.904834, -122.546909, starts="collect_artist_tools", collectible=("artist_tools", 1)
    ),
    Waypoint("6_inter_sunnyside_stair", 37.905292, -122.546677),
    Waypoint("7_inter_baggage_shed", 37.905641, -122.547141, item="brass_key"),
    Waypoint(
        "8_inter_gravity_car",
        37.905696,
        -122.547701,
        is_invented=False,
        completes="discover_woander",
        flag="gravity_car_activated",
    ),
    Waypoint("9_inter_el_paseo_arch", 37.905801, -122.548379, starts="explore_el_paseo"),
    Waypoint(
        "10_inter_el_paseo_courtyard",
        37.906149,
        -122.548709,
        completes="explore_el_paseo",
        opens="el_paseo",
        flag="mailbox_opened",
    ),
    Waypoint("11_inter_throckmorton_marquee", 37.906314, -122.549286, starts="find_the_library"),
    Waypoint("12_inter_bernard_bench", 37.906591, -122.549801, collectible=("brass_tokens", 2)),
    Waypoint(
        "13_inter_lending_library_story_anchor",
        37.906842,
        -122.550444,
        is_invented=False,
        completes="find_the_library",
        flag="library_story_unlocked",
        item="library_card",
    ),
    Waypoint("14_inter_elma_footbridge", 37.907139, -122.551169, starts="follow_the_creek"),
    Waypoint("15_inter_old_mill_wheel", 37.907664, -122.551659, collectible=("artist_tools", 1)),
    Waypoint("16_inter_sawpit_stone", 37.907998, -122.552247, item="lamp"),
    Waypoint("17_inter_creek_stepping_stones", 37.908290, -122.552811),
    Waypoint("18_inter_fern_hollow", 37.908707, -122.553393, collectible=("mystical_flowers", 2)),
    Waypoint("19_inter_cascade_pool", 37.909217, -122.553973, completes="follow_the_creek", opens="cascade_canyon"),
    Waypoint("20_inter_moss_amphitheatre", 37.909555, -122.554515),
    Waypoint(
        "21_inter_lantern_oak",
        37.910112,
        -122.555021,
        starts="light_the_lanterns",
        item="tinder_box",
        achievement="halfway_round",
    ),
    Waypoint("22_inter_three_wells_gate", 37.910576, -122.554546),
    Waypoint("23_inter_owl_lookout", 37.910979, -122.553873, flag="owl_seen"),
    Waypoint("24_inter_ladder_of_roots", 37.910830, -122.553207, collectible=("brass_tokens", 1)),
    Waypoint("25_inter_hollow_trunk", 37.910593, -122.552485),
    Waypoint("26_inter_mushroom_ring", 37.910125, -122.551830, collectible=("mystical_flowers", 3)),
    Waypoint("27_inter_whispering_wall", 37.909657, -122.551283, flag="secret_heard"),
    Waypoint(
        "28_inter_cathedral_grove", 37.909366, -122.550733, completes="light_the_lanterns", opens="cathedral_grove"
    ),
    Waypoint("29_inter_tin_fox_den", 37.908932, -122.550199),
    Waypoint("30_inter_dipsea_first_step", 37.908637, -122.549588),
    Waypoint("31_inter_glass_garden", 37.908312, -122.548862, item="glass_bead"),
    Waypoint("32_inter_clockmaker_porch", 37.907924, -122.548277),
    Waypoint("33_inter_painter_studio", 37.907595, -122.547788, collectible=("artist_tools", 2)),
    Waypoint(
        "34_inter_artist_alley", 37.907220, -122.547291, completes="collect_artist_tools", achievement="quest_master"
    ),
    Waypoint("35_inter_moon_gate", 37.906823, -122.546857, item="moon_charm"),
    Waypoint("36_inter_summit_bell", 37.906298, -122.547021, flag="bell_rung"),
    Waypoint("37_inter_homecoming_plaza", 37.905178, -122.547989, achievement="marathon_walker"),
)

WYLDING_WOODS = Experience("wylding-woods", "Wylding Woods", _WYLDING_WOODS_WAYPOINTS)
EXPERIENCES = {WYLDING_WOODS.experience_id: WYLDING_WOODS}

assert len(_WYLDING_WOODS_WAYPOINTS) == 37
assert sum(not waypoint.is_invented for waypoint in _WYLDING_WOODS_WAYPOINTS) == 3
