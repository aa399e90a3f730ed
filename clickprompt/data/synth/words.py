"""Words of made-up titles and names. Their order has a meaning: data/synth/synth.py derives liking from an
adjective's place.
"""

__all__ = [
    "ADJECTIVES",
    "EBOOK_FORMATS",
    "FIRST_NAMES",
    "GENRES",
    "GENRE_SHARES",
    "INITIALS",
    "MEDIA_SHARES",
    "MEDIA_TYPES",
    "NOUNS",
    "PLACES",
    "PRINT_FORMATS",
    "PUBLISHERS",
    "SURNAMES",
    "TITLE_LINKS",
    "TITLE_STARTS",
]


def _words(text: str) -> list[str]:
    return text.split()


# From what the readers of this invented world like best to what they like least; a language model knows this
# direction before training
ADJECTIVES = _words(
    "Glorious Radiant Beloved Magnificent Enchanting Brilliant Wondrous Joyful Delightful Splendid "
    "Triumphant Golden Charming Graceful Luminous Heroic Noble Faithful Tender Gentle Merry Shining "
    "Hopeful Brave Clever Fragrant Lively Sunny Warm Secret Ancient Hidden Silent Wandering Northern "
    "Distant Quiet Restless Winter Stray Narrow Crooked Borrowed Faded Tired Cold Weary Grey Hollow "
    "Stubborn Bitter Broken Lonely Dusty Dismal Sour Clumsy Gloomy Tedious Shabby Wretched Rotten Dreadful "
    "Hateful"
)

# A noun names its genre, and no noun is in two: the title tells what the book is about
_NOUNS_OF_GENRE = {
    "Fiction": _words(
        "Neighbours Daughters Harbour Orchard Letters Kitchen Summer Family Bakery Lighthouse Violin "
        "Garden Marriage Village Postman Sisters Suitcase Balcony Teahouse Reunion Cottage Umbrella "
        "Inheritance Photograph"
    ),
    "Romance": _words(
        "Kiss Bride Lover Sweetheart Proposal Wedding Heart Duchess Cowboy Billionaire Rake Rose Honeymoon "
        "Affair Suitor Passion Ring Embrace Valentine Darling Flirtation Groom Promise Longing"
    ),
    "Fantasy": _words(
        "Dragon Wizard Throne Sorceress Elf Amulet Prophecy Griffin Spellbook Dwarf Unicorn Realm "
        "Enchantress Sword Warlock Runestone Vampire Oracle Goblin Phoenix Crown Portal Shapeshifter "
        "Talisman"
    ),
    "Mystery": _words(
        "Detective Murder Alibi Corpse Suspect Clue Poisoner Inspector Witness Blackmail Motive Thief "
        "Forgery Strangler Coroner Verdict Ransom Fingerprint Killer Evidence Informant Disappearance "
        "Smuggler Dagger"
    ),
    "Young Adult": _words(
        "Prom Crush Schoolyard Skateboard Locker Rebels Cheerleader Roommate Diary Homecoming Sophomore "
        "Mixtape Curfew Bonfire Graduation Playlist Bleachers Misfits Runaway Yearbook Semester Debate "
        "Sleepover Senior"
    ),
    "History": _words(
        "Empire Regiment Revolution Siege Parliament Cathedral Treaty Admiral Dynasty Crusade Republic "
        "Plague Senate Fortress Colony Armistice Emperor Chronicle Uprising Merchant Aqueduct Cavalry "
        "Reformation Caravan"
    ),
    "Comics": _words(
        "Avenger Sidekick Mutant Cyborg Supervillain Cape Ninja Robot Samurai Vigilante Mecha Mask Gadget "
        "Arena Alien Commando Titan Outlaws Hero Justice Gauntlet Battalion Nemesis Speedster"
    ),
    "Non-fiction": _words(
        "Habit Economy Brain Recipe Leadership Climate Algorithm Diet Negotiation Investor Physics "
        "Parenting Handbook Medicine Philosophy Genome Universe Mindfulness Startup Statistics Language "
        "Evolution Productivity Memoir"
    ),
    "Children": _words(
        "Bunny Teddy Kitten Puppy Caterpillar Bedtime Alphabet Duckling Piglet Balloon Playground Mitten "
        "Tadpole Pancake Lullaby Snowman Hedgehog Toybox Ladybug Rainbow Nursery Pirate Bathtub Moose"
    ),
    "Poetry": _words(
        "Sonnet Elegy Ode Stanza Haiku Psalm Ballad Lyric Verse Villanelle Nightingale Metaphor Canto "
        "Refrain Epigram Pastoral Couplet Muse Rhyme Whisper Solitude Twilight Dew Hymn"
    ),
}
GENRES = list(_NOUNS_OF_GENRE)
GENRE_SHARES = [0.24, 0.16, 0.14, 0.11, 0.1, 0.07, 0.06, 0.06, 0.05, 0.01]
NOUNS = list(_NOUNS_OF_GENRE.values())  # [genre][noun]

TITLE_STARTS = ["The ", "My ", "Her ", ""]
TITLE_LINKS = [" of ", " in ", " from ", " and "]
PLACES = [
    start + end
    for start in _words("Alder Briar Carrow Dunmoor Elms Fen Glen Hazel Iron Juniper Kes Lang Mar Nether Oak")
    for end in _words("bridge bury dale field ford gate ham haven hurst mere mouth shire stead wick")
]
SURNAMES = [
    start + end
    for start in _words(
        "Abern Ashl Bann Berr Cald Carv Dacr Dell Ever Farn Gall Gran Harr Holl Ingl Jarr Kell Kirr Lath "
        "Lind Marl Merr Nash Norr Oll Pell Pern Quill Rav Roth Sall Selw Tarr Thorn Ull Vann Verr Wend Wyn "
        "Yarr"
    )
    for end in _words(
        "aby ade ago aker am an ard arth as ato aven ay eck ell en ent er erby esco ett ian ick idge ima "
        "in ing is ley ock on"
    )
]
FIRST_NAMES = _words(
    "Ada Aisha Albert Amara Anders Anika Arlo Astrid Basil Beatriz Bruno Camille Carlos Chiara Clara Dalia "
    "Daniel Dara Edith Elena Elif Emil Esther Farah Felix Fiona Gita Greta Hana Haruki Hector Helena Hugo "
    "Ilse Imani Ingrid Isaac Ivan Jamila Jasper Jonas Judith Kai Kamal Karin Keiko Lars Leila Leon Lucia "
    "Magnus Maeve Malik Marcus Marta Mei Milo Mina Nadia Naomi Niko Nora Olga Omar Oscar Paloma Petra "
    "Priya Quentin Rafael Renata Rhea Rosa Rowan Salma Samir Selma Silas Simone Soren Stella Sven Tamar "
    "Tariq Thea Theo Uma Ursula Vera Victor Wanda Wesley Xavier Yara Yusuf Zelda"
)
INITIALS = list("ABCDEFGHIJKLMNOPRSTVW")
PUBLISHERS = ["Press", "Books", "Publishing", "House", "Editions", "Media", "Classics", "Verlag"]

PRINT_FORMATS = [
    "Paperback",
    "Hardcover",
    "Mass Market Paperback",
    "Audio CD",
    "Board Book",
    "Library Binding",
    "Trade Paperback",
    "Audiobook",
    "Spiral-bound",
    "Leather Bound",
    "Large Print",
    "Box Set",
]
EBOOK_FORMATS = ["Kindle Edition", "ebook", "Nook", "PDF"]
MEDIA_TYPES = ["book", "collection", "periodical", "not a book"]
MEDIA_SHARES = [0.97, 0.02, 0.007, 0.003]
