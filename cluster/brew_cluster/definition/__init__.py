"""One cluster definition: its settings, its checks, and its renderings for KubeRay, `ray up`, Helm and one machine."""
