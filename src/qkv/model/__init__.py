"""Models: translators, language models, encoders, classifiers, captioners, CNNs and a GAN."""
