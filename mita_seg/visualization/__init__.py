"""What a trained model's experts do, as pictures and as a page.

``inputs`` loads the model and the images; ``colours`` and ``mosaic`` make small maps of many heads,
``maps``, ``landmark_pictures``, ``class_queries`` and ``curves`` the PNG files; ``page`` the HTML
page; ``routing_view`` ties them together.
"""
