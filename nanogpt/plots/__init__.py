"""Every figure, drawn from metrics files: one style, readable in print and by colour-blind eyes.

The ending of the path chooses the format (.svg or .png). The same numbers give the same bytes: no dates, no random
identifiers. Nothing of pyplot's global state is touched, so a figure may be drawn while training runs.
Colours: Okabe and Ito (2008), "Color Universal Design"; whatever a colour shows, a line, marker or label shows too.
"""
