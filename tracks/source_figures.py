"""The figures that the authors of a track's source published about their own system. Imports nothing."""

SOURCE_FIGURES = {  # by the track's name in `descriptions.TRACKS`
    "add3": "80 of 80, 110 s on a GPU (report)",
    "add3-report": "80 of 80, 110 s on a GPU (report)",
    "add2-omnivault": "981 of 1,000, 2 min on a GPU (omnivault)",
    "modadd": "95% of validation, 570 steps (Clip to Grok)",
    "modsub": "95% of validation, 775 steps (Clip to Grok)",
    "moddiv": "95% of validation, 730 steps (Clip to Grok)",
    "addtext": "no line of the right form, 15 min (training log)",
    "words": "plausible by eye, 50 s (training log)",
    "actions": "2 of 10 actions above 70% (training log)",
    "text": "never converged (training log)",
    "sumeq": "0.956 valid, up to 185,000 steps (ROAR)",
}
