from pyg_mmkgc.cli import main

if __name__ == '__main__':
    main(prog_name='pyg-mmkgc')
